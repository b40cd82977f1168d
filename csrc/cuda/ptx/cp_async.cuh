// cp.async: global to shared memory, past the registers.
//
// Copies the first source_bytes from global memory and fills the rest of the 16 (8, 4) bytes with zeros; source_bytes 0
// fills with zeros alone, but the address must be a valid one. Both addresses are aligned to the size. A copy has
// landed for the thread that issued it once it waited for its group; for the others of the block, after a barrier
// behind that.
#pragma once

#include "platform.cuh"

namespace ptx {

// .cg: through the second-level cache alone.
__device__ __forceinline__ void cp_async_16(std::uint32_t destination, const void* source,
                                            std::uint32_t source_bytes = 16) {
#ifdef __CUDACC__
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(destination), "l"(source), "r"(source_bytes)
                 : "memory");
#else
    emulator::copy_async(destination, source, 16, source_bytes);
#endif
}

__device__ __forceinline__ void cp_async_8(std::uint32_t destination, const void* source,
                                           std::uint32_t source_bytes = 8) {
#ifdef __CUDACC__
    asm volatile("cp.async.ca.shared.global [%0], [%1], 8, %2;" ::"r"(destination), "l"(source), "r"(source_bytes)
                 : "memory");
#else
    emulator::copy_async(destination, source, 8, source_bytes);
#endif
}

__device__ __forceinline__ void cp_async_4(std::uint32_t destination, const void* source,
                                           std::uint32_t source_bytes = 4) {
#ifdef __CUDACC__
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(destination), "l"(source), "r"(source_bytes)
                 : "memory");
#else
    emulator::copy_async(destination, source, 4, source_bytes);
#endif
}

// Closes this thread's copies since the last commit into a group, which may be empty.
__device__ __forceinline__ void cp_async_commit_group() {
#ifdef __CUDACC__
    asm volatile("cp.async.commit_group;" ::: "memory");
#else
    emulator::commit_async_group();
#endif
}

// Waits until at most the kPending newest groups of this thread are in flight.
template <int kPending>
__device__ __forceinline__ void cp_async_wait_group() {
#ifdef __CUDACC__
    asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
#else
    emulator::wait_async_group(kPending);
#endif
}

}  // namespace ptx
