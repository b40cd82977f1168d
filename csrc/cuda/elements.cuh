// Element types in kernels: from a code to a type, and runs of neighbouring elements through 128-bit accesses.
#pragma once

#include <cstring>

#include "elements.h"
#include "ptx/numbers.cuh"

namespace alexkern {

template <typename T>
constexpr int kVector = 16 / static_cast<int>(sizeof(T));  // elements in 128 bits

// Calls function(T{}) with the C++ type of `element`.
template <typename Function>
void with_type(Element element, Function function) {
    switch (element) {
        case Element::float32:
            return function(float{});
        case Element::float16:
            return function(ptx::float16{});
        case Element::bfloat16:
            return function(ptx::bfloat16{});
    }
    throw std::invalid_argument("no such element type: " + std::to_string(static_cast<int>(element)));
}

// ReLU, where it is asked for. NaN passes, and -0.0 stays.
__device__ __forceinline__ float finished(float value, bool relu) { return relu && value < 0.0f ? 0.0f : value; }

inline bool is_aligned(const void* pointer) { return reinterpret_cast<std::uintptr_t>(pointer) % 16 == 0; }

// 128 bits to and from floats; `pointer` is aligned to 16 bytes.
__device__ __forceinline__ void load_vector(const float* pointer, float (&values)[4]) {
    const float4 bits = *reinterpret_cast<const float4*>(pointer);
    values[0] = bits.x;
    values[1] = bits.y;
    values[2] = bits.z;
    values[3] = bits.w;
}

__device__ __forceinline__ void store_vector(float* pointer, const float (&values)[4]) {
    *reinterpret_cast<float4*>(pointer) = make_float4(values[0], values[1], values[2], values[3]);
}

template <typename T>
__device__ __forceinline__ void load_vector(const T* pointer, float (&values)[8]) {
    const uint4 bits = *reinterpret_cast<const uint4*>(pointer);
    const unsigned words[4] = {bits.x, bits.y, bits.z, bits.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        const float2 pair = ptx::unpack<T>(words[i]);
        values[2 * i] = pair.x;
        values[2 * i + 1] = pair.y;
    }
}

template <typename T>
__device__ __forceinline__ void store_vector(T* pointer, const float (&values)[8]) {
    *reinterpret_cast<uint4*>(pointer) =
        make_uint4(ptx::pack<T>(values[0], values[1]), ptx::pack<T>(values[2], values[3]),
                   ptx::pack<T>(values[4], values[5]), ptx::pack<T>(values[6], values[7]));
}

// One element, so that a kernel of any width reads the same.
template <typename T>
__device__ __forceinline__ void load_vector(const T* pointer, float (&values)[1]) {
    values[0] = ptx::to_float(*pointer);
}

template <typename T>
__device__ __forceinline__ void store_vector(T* pointer, const float (&values)[1]) {
    *pointer = ptx::from_float<T>(values[0]);
}

// Of memory that nobody writes while the kernel runs. ptxas for sm_100 splits a plain load of four floats that are then
// added one by one; one by the read-only path it leaves whole.
template <typename T, int kWidth>
__device__ __forceinline__ void load_constant_vector(const T* pointer, float (&values)[kWidth]) {
    load_vector(pointer, values);
}

__device__ __forceinline__ void load_constant_vector(const float* pointer, float (&values)[4]) {
    const float4 bits = __ldg(reinterpret_cast<const float4*>(pointer));
    values[0] = bits.x;
    values[1] = bits.y;
    values[2] = bits.z;
    values[3] = bits.w;
}

}  // namespace alexkern
