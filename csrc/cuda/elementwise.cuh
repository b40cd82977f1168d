// Kernels that go through dense memory element by element: eight neighbours a thread, 128 bits an access.
#pragma once

#include "elements.cuh"
#include "ptx/launch.cuh"

namespace alexkern::elementwise {

constexpr int kThreads = 256;
constexpr int kRun = 8;  // elements of a thread: two Philox blocks, one or two vectors

// The first element of this thread's run.
__device__ __forceinline__ std::int64_t first_element() {
    return (static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x) * kRun;
}

// A run of which `left` elements exist; `aligned`: the tensor starts at a multiple of 16 bytes.
template <typename T>
__device__ __forceinline__ void load(const T* run, std::int64_t left, bool aligned, float (&values)[kRun]) {
    if (aligned && left >= kRun) {
#pragma unroll
        for (int i = 0; i < kRun; i += kVector<T>) {
            float vector[kVector<T>];
            load_vector(run + i, vector);
#pragma unroll
            for (int j = 0; j < kVector<T>; ++j) values[i + j] = vector[j];
        }
    } else {
#pragma unroll
        for (int i = 0; i < kRun; ++i) values[i] = i < left ? ptx::to_float(run[i]) : 0.0f;
    }
}

template <typename T>
__device__ __forceinline__ void store(T* run, std::int64_t left, bool aligned, const float (&values)[kRun]) {
    if (aligned && left >= kRun) {
#pragma unroll
        for (int i = 0; i < kRun; i += kVector<T>) {
            float vector[kVector<T>];
#pragma unroll
            for (int j = 0; j < kVector<T>; ++j) vector[j] = values[i + j];
            store_vector(run + i, vector);
        }
    } else {
#pragma unroll
        for (int i = 0; i < kRun; ++i) {
            if (i < left) run[i] = ptx::from_float<T>(values[i]);
        }
    }
}

// Blocks for `count` elements: at most 2**31 - 1, which covers every tensor that fits a GPU.
inline dim3 grid(std::int64_t count) {
    return dim3(static_cast<unsigned>((count + kThreads * kRun - 1) / (kThreads * kRun)));
}

}  // namespace alexkern::elementwise
