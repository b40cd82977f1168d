// bar.sync and bar.arrive: the 16 named barriers of a block, for parts of it. __syncthreads() is number 0.
//
// `threads` is how many take part, in whole warps, those that only arrive included. Every lane of a warp executes it
// together. bar.arrive does not wait: a producer arrives, a consumer syncs.
#pragma once

#include "platform.cuh"

namespace ptx {

__device__ __forceinline__ void bar_sync(std::uint32_t barrier, std::uint32_t threads) {
#ifdef __CUDACC__
    asm volatile("bar.sync %0, %1;" ::"r"(barrier), "r"(threads) : "memory");
#else
    emulator::barrier_sync(barrier, threads, {"bar.sync"});
#endif
}

__device__ __forceinline__ void bar_arrive(std::uint32_t barrier, std::uint32_t threads) {
#ifdef __CUDACC__
    asm volatile("bar.arrive %0, %1;" ::"r"(barrier), "r"(threads) : "memory");
#else
    emulator::barrier_arrive(barrier, threads, {"bar.arrive"});
#endif
}

}  // namespace ptx
