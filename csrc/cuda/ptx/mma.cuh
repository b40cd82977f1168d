// mma.sync.aligned: one warp multiplies 16xK by Kx8 on the tensor cores, d = a b + d, accumulated in fp32.
//
// With g = lane / 4 and t = lane % 4, two 16-bit values to a register, the lower column or row in the lower half:
//   a (16xK): registers 0 to 3 are rows g, g + 8, g, g + 8; columns 2t, 2t, 2t + 8, 2t + 8 and the next
//   b (Kx8):  registers 0 and 1 are rows 2t and 2t + 8 and the next, column g
//   d (16x8): registers 0 to 3 are (g, 2t), (g, 2t + 1), (g + 8, 2t), (g + 8, 2t + 1)
// tf32, K = 8, one value to a register: a rows as above, columns t, t, t + 4, t + 4; b rows t, t + 4, column g.
// Every lane of the warp must execute it.
#pragma once

#include "numbers.cuh"

namespace ptx {

// mma_m16n8k16<float16>, mma_m16n8k16<bfloat16>
template <typename T>
__device__ __forceinline__ void mma_m16n8k16(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]);

template <>
__device__ __forceinline__ void mma_m16n8k16<float16>(float (&d)[4], const std::uint32_t (&a)[4],
                                                      const std::uint32_t (&b)[2]) {
#ifdef __CUDACC__
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
    emulator::multiply_m16n8k16(emulator::Element::fp16, d, a, b, d);
#endif
}

template <>
__device__ __forceinline__ void mma_m16n8k16<bfloat16>(float (&d)[4], const std::uint32_t (&a)[4],
                                                       const std::uint32_t (&b)[2]) {
#ifdef __CUDACC__
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
    emulator::multiply_m16n8k16(emulator::Element::bf16, d, a, b, d);
#endif
}

__device__ __forceinline__ void mma_m16n8k8_tf32(float (&d)[4], const std::uint32_t (&a)[4],
                                                 const std::uint32_t (&b)[2]) {
#ifdef __CUDACC__
    asm volatile(
        "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
    emulator::multiply_m16n8k8_tf32(d, a, b, d);
#endif
}

}  // namespace ptx
