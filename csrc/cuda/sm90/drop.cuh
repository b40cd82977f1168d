// Dropout in a product's epilogue: over a tile that is rounded and staged, on its way out.
//
// In registers a thread has two neighbours of a row, half of what one Philox block decides; in shared memory eight lie
// side by side, and the loop is short beside a tile's worth of unrolled blocks.
#pragma once

#include "../elements.cuh"
#include "../philox.cuh"
#include "ring.cuh"

namespace alexkern::hopper {

// By a warpgroup, over its tile, of which the output has the first `rows` rows. The tile starts at the output's element
// `first`, and `pitch` is the output's row: both multiples of four.
template <typename T, typename Out>
__device__ __forceinline__ void drop(unsigned char* tile, std::int64_t rows, const philox::Rule& rule,
                                     std::int64_t first, std::int64_t pitch) {
    constexpr int kRun = 8, kRuns = Out::kColumns / kRun;
    const philox::Place place = philox::place(rule);
#pragma unroll 1
    for (int i = threadIdx.x % kWarpgroup; i < 64 * kRuns; i += kWarpgroup) {
        const int row = i / kRuns, column = i % kRuns * kRun;
        if (row >= rows) break;
        T* const run = reinterpret_cast<T*>(tile + Out::at(row, column));
        float values[kRun], factor[kRun];
        load_vector(run, values);
        philox::factors(rule, place, first + row * pitch + column, factor);
#pragma unroll
        for (int j = 0; j < kRun; ++j) values[j] *= factor[j];  // not a choice of 0: a dropped NaN is NaN
        store_vector(run, values);
    }
}

}  // namespace alexkern::hopper
