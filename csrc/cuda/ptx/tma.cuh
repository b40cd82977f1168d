// cp.async.bulk.tensor: boxes and im2col's pixels of a tensor to shared memory, boxes back. One thread issues a copy.
//
// Shared addresses are aligned to 1024 bytes, so that swizzles start afresh there. What lies outside of the tensor is
// loaded as zeros, and not stored. A load completes on an mbarrier, with all its bytes, zeros included. A store reads
// through the async proxy: every thread that wrote there fences (fence_proxy_async), then a barrier, then the store.
#pragma once

#include "tensor_map.cuh"

namespace ptx {

// Brings the map itself near, ahead of its first use.
__device__ __forceinline__ void prefetch_tensor_map(const TensorMap& map) {
#ifdef __CUDACC__
    asm volatile("prefetch.tensormap [%0];" ::"l"(&map) : "memory");
#else
    static_cast<void>(map);
#endif
}

__device__ __forceinline__ void tma_load_3d(std::uint32_t destination, const TensorMap& map, std::uint32_t mbarrier,
                                            int c0, int c1, int c2) {
#ifdef __CUDACC__
    asm volatile(
        "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5}], "
        "[%2];" ::"r"(destination),
        "l"(&map), "r"(mbarrier), "r"(c0), "r"(c1), "r"(c2)
        : "memory");
#else
    const int coordinates[] = {c0, c1, c2};
    emulator::bulk_load(destination, map, mbarrier, coordinates, 3);
#endif
}

// Into every block of the cluster whose rank's bit is set in `blocks`, at the same offsets in each, completing on the
// mbarrier of each with all its bytes.
__device__ __forceinline__ void tma_load_3d_multicast(std::uint32_t destination, const TensorMap& map,
                                                      std::uint32_t mbarrier, int c0, int c1, int c2,
                                                      std::uint16_t blocks) {
#ifdef __CUDACC__
    asm volatile(
        "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster [%0], "
        "[%1, {%3, %4, %5}], [%2], %6;" ::"r"(destination),
        "l"(&map), "r"(mbarrier), "r"(c0), "r"(c1), "r"(c2), "h"(blocks)
        : "memory");
#else
    const int coordinates[] = {c0, c1, c2};
    emulator::bulk_load_multicast(destination, map, mbarrier, coordinates, 3, blocks);
#endif
}

// From channel c on, of pixels that start at (w, h, n), each moved by the offsets: w and h as they lie in the map's
// box.
__device__ __forceinline__ void tma_load_im2col(std::uint32_t destination, const TensorMap& map, std::uint32_t mbarrier,
                                                int c, int w, int h, int n, std::uint16_t offset_w,
                                                std::uint16_t offset_h) {
#ifdef __CUDACC__
    asm volatile(
        "cp.async.bulk.tensor.4d.shared::cluster.global.im2col.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5, "
        "%6}], [%2], {%7, %8};" ::"r"(destination),
        "l"(&map), "r"(mbarrier), "r"(c), "r"(w), "r"(h), "r"(n), "h"(offset_w), "h"(offset_h)
        : "memory");
#else
    emulator::bulk_load_im2col(destination, map, mbarrier, {c, w, h, n}, {offset_w, offset_h});
#endif
}

__device__ __forceinline__ void tma_store_3d(const TensorMap& map, std::uint32_t source, int c0, int c1, int c2) {
#ifdef __CUDACC__
    asm volatile("cp.async.bulk.tensor.3d.global.shared::cta.tile.bulk_group [%0, {%2, %3, %4}], [%1];" ::"l"(&map),
                 "r"(source), "r"(c0), "r"(c1), "r"(c2)
                 : "memory");
#else
    const int coordinates[] = {c0, c1, c2};
    emulator::bulk_store(map, source, coordinates, 3);
#endif
}

// Closes this thread's stores since the last commit into a group, which may be empty.
__device__ __forceinline__ void tma_commit_group() {
#ifdef __CUDACC__
    asm volatile("cp.async.bulk.commit_group;" ::: "memory");
#else
    emulator::bulk_commit_group();
#endif
}

// Waits until all but the kPending newest groups of this thread have read what they store: it may be overwritten then.
template <int kPending>
__device__ __forceinline__ void tma_wait_group_read() {
#ifdef __CUDACC__
    asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(kPending) : "memory");
#else
    emulator::bulk_wait_group_read(kPending);
#endif
}

// Makes what this thread wrote to shared memory by ordinary means known to the async proxy: bulk stores and wgmma.
__device__ __forceinline__ void fence_proxy_async() {
#ifdef __CUDACC__
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#else
    emulator::fence_async_proxy();
#endif
}

}  // namespace ptx
