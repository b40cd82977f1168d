// Dropout in a product's epilogue: over a tile that is rounded and staged, on its way out.
//
// In registers a thread has two neighbouring filters of a pixel, half of what one Philox block decides; in shared
// memory eight lie side by side, and the loop is short beside a tile's worth of unrolled blocks.
#pragma once

#include "../elements.cuh"
#include "../philox.cuh"
#include "ring.cuh"

namespace alexkern::sm90 {

// By a warpgroup, over a buffer of its, of which the output has the first `pixels` pixels and `filters` filters. It
// starts at the output's element `first`, and a pixel has `pitch` of them: all but `pixels` multiples of eight.
// `mask`: a byte for eight elements of the output, or null.
template <typename T, typename Out>
__device__ __forceinline__ void drop(unsigned char* buffer, std::int64_t pixels, int filters, std::uint8_t* mask,
                                     const philox::Rule& rule, std::int64_t first, std::int64_t pitch) {
    constexpr int kRun = 8, kRuns = Out::kFilters / kRun;
    const philox::Start start = philox::start(rule);
#pragma unroll 1
    for (int i = threadIdx.x % kWarpgroup; i < 64 * kRuns; i += kWarpgroup) {
        const int pixel = i / kRuns, filter = i % kRuns * kRun;
        if (pixel >= pixels) break;
        T* const run = reinterpret_cast<T*>(buffer + Out::at(pixel, filter));
        float values[kRun], factor[kRun];
        load_vector(run, values);
        const std::int64_t element = first + pixel * pitch + filter;
        philox::factors(rule, start, element, factor);
        if (mask != nullptr && filter < filters) mask[element / kRun] = philox::passing(values, factor);
#pragma unroll
        for (int j = 0; j < kRun; ++j) values[j] *= factor[j];  // not a choice of 0: a dropped NaN is NaN
        store_vector(run, values);
    }
}

}  // namespace alexkern::sm90
