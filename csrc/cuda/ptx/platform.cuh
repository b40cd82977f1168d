// What a kernel's source includes first: CUDA itself under nvcc, the emulator under any other compiler.
#pragma once

#ifdef __CUDACC__
#include <cuda_runtime.h>
#else
#include "../../emulator/emulator.h"
#endif

#include <cstdint>

namespace ptx {

// The block's dynamic shared memory, all the shared memory there is: `extern __shared__` would not compile on a host,
// and an array of fixed size would hide its bounds.
template <typename T>
__device__ __forceinline__ T* dynamic_shared_memory() {
#ifdef __CUDACC__
    extern __shared__ __align__(1024) unsigned char bytes[];
    return reinterpret_cast<T*>(bytes);
#else
    return reinterpret_cast<T*>(emulator::dynamic_shared_memory());
#endif
}

// The 32-bit address in shared memory that ldmatrix, cp.async and their like take.
__device__ __forceinline__ std::uint32_t shared_address(const void* pointer) {
    return static_cast<std::uint32_t>(__cvta_generic_to_shared(pointer));
}

}  // namespace ptx
