// fp16, bf16 and tf32 as plain bits, with the same names under nvcc and on the host: cuda_fp16.h and cuda_bf16.h are
// large, and lack much on the host.
#pragma once

#include "platform.cuh"

namespace ptx {

struct float16 {
    std::uint16_t bits;
};

struct bfloat16 {
    std::uint16_t bits;
};

__device__ __forceinline__ float to_float(float value) { return value; }

__device__ __forceinline__ float to_float(float16 value) {
#ifdef __CUDACC__
    float result;
    asm("cvt.f32.f16 %0, %1;" : "=f"(result) : "h"(value.bits));
    return result;
#else
    return emulator::float_from_fp16(value.bits);
#endif
}

__device__ __forceinline__ float to_float(bfloat16 value) {
    return __uint_as_float(static_cast<std::uint32_t>(value.bits) << 16);
}

// To the nearest, ties to even: from_float<bfloat16>(x).
template <typename T>
__device__ __forceinline__ T from_float(float value);

template <>
__device__ __forceinline__ float from_float<float>(float value) {
    return value;
}

template <>
__device__ __forceinline__ float16 from_float<float16>(float value) {
#ifdef __CUDACC__
    float16 result;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(result.bits) : "f"(value));
    return result;
#else
    return {emulator::fp16_from_float(value)};
#endif
}

template <>
__device__ __forceinline__ bfloat16 from_float<bfloat16>(float value) {
#ifdef __CUDACC__
    bfloat16 result;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(result.bits) : "f"(value));
    return result;
#else
    return {emulator::bf16_from_float(value)};
#endif
}

// Two values in 32 bits, the first in the low half: pack<float16>(first, second).
template <typename T>
__device__ __forceinline__ std::uint32_t pack(float first, float second);

template <>
__device__ __forceinline__ std::uint32_t pack<float16>(float first, float second) {
#ifdef __CUDACC__
    std::uint32_t result;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(result) : "f"(second), "f"(first));
    return result;
#else
    return static_cast<std::uint32_t>(emulator::fp16_from_float(second)) << 16 | emulator::fp16_from_float(first);
#endif
}

template <>
__device__ __forceinline__ std::uint32_t pack<bfloat16>(float first, float second) {
#ifdef __CUDACC__
    std::uint32_t result;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(result) : "f"(second), "f"(first));
    return result;
#else
    return static_cast<std::uint32_t>(emulator::bf16_from_float(second)) << 16 | emulator::bf16_from_float(first);
#endif
}

template <typename T>
__device__ __forceinline__ float2 unpack(std::uint32_t pair) {
    return make_float2(to_float(T{static_cast<std::uint16_t>(pair)}),
                       to_float(T{static_cast<std::uint16_t>(pair >> 16)}));
}

// tf32 in the bits of a float, ties away from zero: what mma.sync's tf32 form expects of its operands.
__device__ __forceinline__ std::uint32_t to_tf32(float value) {
#ifdef __CUDACC__
    std::uint32_t result;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(result) : "f"(value));
    return result;
#else
    return emulator::tf32_from_float(value);
#endif
}

}  // namespace ptx
