// The main loop on sm_90a. One warp fetches tiles by TMA into a ring of stages; two warpgroups multiply them by wgmma.
//
//   stage  = A's tile, B's tile             full[stage]:  TMA has brought them
//   A      = 128 x a step of GEMM_K         empty[stage]: the eight warps that multiply have done with them
//   B      = kBlockN x a step of GEMM_K
//
// Blocks of a cluster have the same B: each fetches its part of it for all of them. A stage may be filled anew when the
// warps of all of them have done with it, so these release it in every block.
//
// A row of a tile is 128 bytes, swizzled, and TMA writes all of them. Rows run along GEMM_K (the last 32 bytes of a
// step of 48 channels are not multiplied), or along GEMM_M and GEMM_N: then a tile is blocks of 64 of those by 64 of
// GEMM_K.
#pragma once

#include "../divider.h"
#include "../ptx/barrier.cuh"
#include "../ptx/cluster.cuh"
#include "../ptx/mbarrier.cuh"
#include "../ptx/tma.cuh"
#include "../ptx/warpgroup.cuh"
#include "../ptx/wgmma.cuh"
#include "sm90.h"

namespace alexkern::sm90 {

// Two that multiply, and one of whose first warp a thread fetches.
constexpr int kWarpgroup = 128, kThreads = 3 * kWarpgroup, kFetchingWarp = 2 * kWarpgroup / 32;
constexpr int kProducerRegisters = 40, kConsumerRegisters = 232;
constexpr int kRowBytes = 128, kRowValues = kRowBytes / 2, kSharedBytes = 227 * 1024;

// This thread's warp, in a form that the compiler knows to be one number for all of its lanes: what is computed of it,
// addresses of tiles among them, then stays in the warp's own registers, and a branch on it is one of the whole warp.
__device__ __forceinline__ int warp_index() { return __shfl_sync(0xffffffffu, static_cast<int>(threadIdx.x) / 32, 0); }

template <int kBlockN, int kStagingBytes, int kCluster = 1>
struct Ring {
    static constexpr int kTileA = kBlockM * kRowBytes, kTileB = kBlockN * kRowBytes, kStage = kTileA + kTileB;
    static constexpr int kFit = (kSharedBytes - kStagingBytes - 1024) / kStage;
    static constexpr int kStages = kFit < 8 ? kFit : 8;
    static constexpr int kStaging = kStages * kStage, kBarriers = kStaging + kStagingBytes;
    static constexpr int kBytes = kBarriers + 16 * kStages;  // in all
    static constexpr int kPartB = kBlockN / kCluster;        // rows of B that a block fetches

    std::uint32_t shared;  // where it starts
    int stage = 0;
    std::uint32_t parity = 0;

    __device__ __forceinline__ std::uint32_t tile_a() const { return shared + stage * kStage; }
    __device__ __forceinline__ std::uint32_t tile_b() const { return tile_a() + kTileA; }
    __device__ __forceinline__ std::uint32_t full() const { return shared + kBarriers + 8 * stage; }
    __device__ __forceinline__ std::uint32_t empty(int of_stage) const {
        return shared + kBarriers + 8 * (kStages + of_stage);
    }

    // By all threads, once. `maps` are brought near meanwhile, for the first copies to find them there.
    template <typename... Maps>
    __device__ __forceinline__ void set_up(int warp, const Maps&... maps) const {
        if (warp == kFetchingWarp && ptx::elect_one()) (ptx::prefetch_tensor_map(maps), ...);
        if (threadIdx.x == 0) {
            for (int i = 0; i < kStages; ++i) {
                ptx::mbarrier_init(shared + kBarriers + 8 * i, 1);
                ptx::mbarrier_init(empty(i), 8 * kCluster);
            }
            ptx::fence_mbarrier_init();
        }
        if constexpr (kCluster > 1) {
            ptx::cluster_arrive_relaxed();
            ptx::cluster_wait();
        } else {
            __syncthreads();
        }
    }

    // B's tile, rows of (n, tap, k) from row n on: in a cluster this block's part of it, for every block.
    __device__ __forceinline__ void fetch_b(const ptx::TensorMap& map, int k, int tap, int n, unsigned rank) const {
        if constexpr (kCluster > 1) {
            const unsigned first = rank * kPartB;
            ptx::tma_load_3d_multicast(tile_b() + first * kRowBytes, map, full(), k, tap, n + static_cast<int>(first),
                                       (1 << kCluster) - 1);
        } else {
            ptx::tma_load_3d(tile_b(), map, full(), k, tap, n);
        }
    }

    // By one lane, or, in a cluster, as many as it has blocks.
    __device__ __forceinline__ void release(int of_stage, int lane) const {
        if constexpr (kCluster > 1) {
            if (lane < kCluster) ptx::mbarrier_arrive_cluster(ptx::map_shared(empty(of_stage), lane));
        } else {
            if (lane == 0) ptx::mbarrier_arrive(empty(of_stage));
        }
    }

    // By the thread that fetches, at its end: its block may go when no other can reach it any more.
    __device__ __forceinline__ void drain() {
        if constexpr (kCluster > 1) {
            for (int i = 0; i < kStages; ++i) {
                ptx::mbarrier_wait(empty(stage), parity ^ 1);
                advance();
            }
        }
    }

    __device__ __forceinline__ void advance() {
        if (++stage == kStages) {
            stage = 0;
            parity ^= 1;
        }
    }

    // Fetches `steps` stages, one after the other: fetch() announces the bytes of this stage and issues its copies.
    template <typename Fetch>
    __device__ __forceinline__ void produce(int steps, Fetch&& fetch) {
        for (int step = 0; step < steps; ++step) {
            ptx::mbarrier_wait(empty(stage), parity ^ 1);
            fetch();
            advance();
        }
    }

    // sum = this warpgroup's 64 rows of A times B, over `steps` stages of 16 kSixteens. At the end all is summed.
    template <typename T, int kSixteens, bool kTransposed>
    __device__ __forceinline__ void consume(float (&sum)[kBlockN / 2], int steps, int warpgroup) {
        constexpr auto kSwizzle = ptx::Swizzle::bytes_128;
        constexpr std::uint32_t kGroup = 8 * kRowBytes, kBlock = kTransposed ? kPixels * kRowBytes : 0;
        constexpr int kAdvance = kTransposed ? 16 * kRowBytes : 32;  // bytes along GEMM_K
        const int lane = threadIdx.x % 32;
        // Of the first stage, and an addition for every other.
        const std::uint32_t first = shared + warpgroup * 64 * kRowBytes;
        const std::uint64_t first_a = ptx::matrix_descriptor<kSwizzle>(first, kGroup, kBlock);
        const std::uint64_t first_b = ptx::matrix_descriptor<kSwizzle>(shared + kTileA, kGroup, kBlock);
        int done = -1;
#pragma unroll 1
        for (int step = 0; step < steps; ++step) {
            ptx::mbarrier_wait(full(), parity);
            const std::uint64_t a = ptx::advance_descriptor(first_a, stage * (kStage / 16));
            const std::uint64_t b = ptx::advance_descriptor(first_b, stage * (kStage / 16));
            ptx::wgmma_fence();
#pragma unroll
            for (int k = 0; k < kSixteens; ++k) {
                ptx::wgmma<T, kBlockN, kTransposed, kTransposed>(sum, ptx::advance_descriptor(a, k * (kAdvance / 16)),
                                                                 ptx::advance_descriptor(b, k * (kAdvance / 16)),
                                                                 step > 0 || k > 0);
            }
            ptx::wgmma_commit_group();
            ptx::wgmma_wait_group<1>(sum);  // the step before is summed: its stage may be filled anew
            if (done >= 0) release(done, lane);
            done = stage;
            advance();
        }
        ptx::wgmma_wait_group<0>(sum);
        release(done, lane);
    }
};

// The tiles of a product, in the order in which blocks take them: along N first, so that neighbours share A.
struct Tiles {
    Divider across, down, splits;
    std::uint32_t count, steps;  // steps: of all splits together; splits times as many are below 2**31, as is count

    struct At {
        std::uint32_t n, m, split, batch;
        int first, steps;  // of the split
    };

    __device__ __forceinline__ At at(std::uint32_t tile) const {
        const std::uint32_t n = split_off(tile, across), m = split_off(tile, down), split = split_off(tile, splits);
        const int first = first_step(split);
        return {n, m, split, tile, first, first_step(split + 1) - first};
    }

    __device__ __forceinline__ int first_step(std::uint32_t split) const {
        std::uint32_t step = steps * split;
        split_off(step, splits);
        return static_cast<int>(step);
    }
};

}  // namespace alexkern::sm90
