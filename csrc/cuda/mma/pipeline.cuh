// The main loop: a ring of stages in shared memory, filled by cp.async a few steps ahead of the arithmetic.
#pragma once

#include "../ptx/cp_async.cuh"
#include "arithmetic.cuh"

namespace mma {

// A block's tile of the product, and the kWarpM x kWarpN that each of kDown x kAcross warps has.
template <int kBlockM_, int kBlockN_, int kDown_, int kAcross_, int kStages_>
struct Shape {
    static constexpr int kBlockM = kBlockM_, kBlockN = kBlockN_, kDown = kDown_, kAcross = kAcross_;
    static constexpr int kStages = kStages_, kThreads = 32 * kDown * kAcross;
    static constexpr int kWarpM = kBlockM / kDown, kWarpN = kBlockN / kAcross;
};

// `fetch(step, shared address of A's tile, that of B's)` issues a step's copies. At the end no copy is in flight, and
// all have done with the stages.
template <typename Arithmetic, typename LayoutA, typename LayoutB, typename Shape, typename Fetch>
__device__ __forceinline__ void multiply(Sums<Shape::kWarpM, Shape::kWarpN>& sums, int steps, Fetch&& fetch) {
    constexpr int kStages = Shape::kStages, kStageBytes = LayoutA::kBytes + LayoutB::kBytes;
    const unsigned char* shared = ptx::dynamic_shared_memory<unsigned char>();
    const std::uint32_t address = ptx::shared_address(shared);
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int first_m = warp / Shape::kAcross * Shape::kWarpM, first_n = warp % Shape::kAcross * Shape::kWarpN;
    const auto fetch_or_not = [&](int step, int stage) {
        const std::uint32_t tiles = address + stage * kStageBytes;
        if (step < steps) fetch(step, tiles, tiles + LayoutA::kBytes);
        ptx::cp_async_commit_group();  // an empty one too: the waits count groups
    };
#pragma unroll
    for (int step = 0; step < kStages - 1; ++step) fetch_or_not(step, step);
    int stage = 0, free_stage = kStages - 1;
    for (int step = 0; step < steps; ++step) {
        ptx::cp_async_wait_group<kStages - 2>();
        __syncthreads();  // this step has landed for all, and all have done with the step before
        fetch_or_not(step + kStages - 1, free_stage);
        const int tiles = stage * kStageBytes;
        const Operand a{shared, address, tiles, first_m}, b{shared, address, tiles + LayoutA::kBytes, first_n};
        Arithmetic::template multiply<LayoutA, LayoutB>(sums, a, b, lane);
        free_stage = stage;
        stage = stage + 1 == kStages ? 0 : stage + 1;
    }
    ptx::cp_async_wait_group<0>();
    __syncthreads();
}

// Calls visit(m, n, first, second) for every two neighbouring sums of this thread, at (m, n) and (m, n + 1) of the
// tile.
template <typename Shape, typename Visit>
__device__ __forceinline__ void for_each_pair(const Sums<Shape::kWarpM, Shape::kWarpN>& sums, Visit&& visit) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int first_m = warp / Shape::kAcross * Shape::kWarpM, first_n = warp % Shape::kAcross * Shape::kWarpN;
#pragma unroll
    for (int i = 0; i < Shape::kWarpM / 16; ++i) {
#pragma unroll
        for (int j = 0; j < Shape::kWarpN / 8; ++j) {
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                visit(first_m + 16 * i + 8 * half + lane / 4, first_n + 8 * j + 2 * (lane % 4),
                      sums.value[i][j][2 * half], sums.value[i][j][2 * half + 1]);
            }
        }
    }
}

}  // namespace mma
