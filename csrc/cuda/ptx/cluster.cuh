// Clusters: blocks that run together (ptx::launch_clusters) and reach each other's shared memory and barriers.
//
// A block has a rank among them. An address of its shared memory, mapped to another's rank, is the same place in that
// block. None may return while another can still reach it, nor be reached before it has said that it is there: barriers
// are initialised, fenced (fence_mbarrier_init), and then all threads of all blocks come to the cluster's barrier.
#pragma once

#include "platform.cuh"

namespace ptx {

__device__ __forceinline__ std::uint32_t cluster_rank() {
#ifdef __CUDACC__
    std::uint32_t rank;
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return rank;
#else
    return emulator::cluster_rank();
#endif
}

// For instructions that take shared::cluster addresses, and no others.
__device__ __forceinline__ std::uint32_t map_shared(std::uint32_t address, std::uint32_t rank) {
#ifdef __CUDACC__
    std::uint32_t mapped;
    asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(mapped) : "r"(address), "r"(rank));
    return mapped;
#else
    return emulator::map_shared(address, rank);
#endif
}

// The cluster's barrier, by all threads of all its blocks. It orders what fence_mbarrier_init fenced before it and no
// other access: an arrival that orders them all would wait for all of this block's writes to device memory.
__device__ __forceinline__ void cluster_arrive_relaxed() {
#ifdef __CUDACC__
    asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory");
#else
    emulator::cluster_arrive_relaxed({"barrier.cluster.arrive"});
#endif
}

__device__ __forceinline__ void cluster_wait() {
#ifdef __CUDACC__
    asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
#else
    emulator::cluster_wait({"barrier.cluster.wait"});
#endif
}

// Arrives at another block's mbarrier, `mbarrier` being mapped to its rank. What this thread's products and copies have
// read is read by then: the other block may have it overwritten. Ordinary writes are not handed over: at the scope of a
// cluster an arrival costs a fence of the whole chip.
__device__ __forceinline__ void mbarrier_arrive_cluster(std::uint32_t mbarrier) {
#ifdef __CUDACC__
    asm volatile("mbarrier.arrive.shared::cluster.b64 _, [%0];" ::"r"(mbarrier) : "memory");
#else
    emulator::mbarrier_arrive_cluster(mbarrier);
#endif
}

}  // namespace ptx
