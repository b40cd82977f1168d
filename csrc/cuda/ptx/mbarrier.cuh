// mbarrier: a barrier in shared memory, 8 bytes aligned to 8, that counts arrivals and the bytes of bulk copies.
//
// A phase completes when all arrivals have come and all bytes that they announced have landed; the next one begins at
// once. Phases are told apart by parity: the first is 0, and waiting for parity 1 at a fresh barrier returns at once.
// What a thread wrote before it arrived, and what bulk copies wrote, is there for who has waited.
#pragma once

#include "platform.cuh"

namespace ptx {

// By one thread; behind it fence_mbarrier_init() and a barrier of the block.
__device__ __forceinline__ void mbarrier_init(std::uint32_t mbarrier, std::uint32_t arrivals) {
#ifdef __CUDACC__
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(mbarrier), "r"(arrivals) : "memory");
#else
    emulator::mbarrier_init(mbarrier, arrivals);
#endif
}

// Makes this thread's mbarrier_init known to bulk copies.
__device__ __forceinline__ void fence_mbarrier_init() {
#ifdef __CUDACC__
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
#else
    emulator::fence_mbarrier_init();
#endif
}

__device__ __forceinline__ void mbarrier_arrive(std::uint32_t mbarrier) {
#ifdef __CUDACC__
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(mbarrier) : "memory");
#else
    emulator::mbarrier_arrive(mbarrier);
#endif
}

// Announces `bytes` of bulk copies to this phase, then arrives.
__device__ __forceinline__ void mbarrier_arrive_expect_tx(std::uint32_t mbarrier, std::uint32_t bytes) {
#ifdef __CUDACC__
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(mbarrier), "r"(bytes) : "memory");
#else
    emulator::mbarrier_arrive_expect_tx(mbarrier, bytes);
#endif
}

// Waits until the phase of this parity has completed: the current phase or the one before it.
__device__ __forceinline__ void mbarrier_wait(std::uint32_t mbarrier, std::uint32_t parity) {
#ifdef __CUDACC__
    asm volatile(
        "{\n"
        ".reg .pred complete;\n"
        "again:\n"
        "mbarrier.try_wait.parity.shared::cta.b64 complete, [%0], %1;\n"
        "@!complete bra again;\n"
        "}" ::"r"(mbarrier),
        "r"(parity)
        : "memory");
#else
    emulator::mbarrier_wait(mbarrier, parity);
#endif
}

}  // namespace ptx
