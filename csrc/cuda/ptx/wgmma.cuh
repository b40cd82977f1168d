// wgmma: a warpgroup multiplies 64x16 by 16xN on the tensor cores, d = a b + d, both from shared memory, in fp32.
//
// Thread 32 w + 4 g + t of the warpgroup holds, as register 4 j + 2 half + odd of d, row 16 w + 8 half + g, column
// 8 j + 2 t + odd. Every lane of the four warps executes it. It runs on by itself: fence (the registers are ready),
// some products, commit; until the wait for that group nobody may touch d or overwrite a and b. Shared memory is read
// through the async proxy: what came by TMA is there once its mbarrier has been waited for, what was written by
// ordinary means wants fence_proxy_async by the writers, then a barrier.
#pragma once

#include <type_traits>

#include "numbers.cuh"
#include "tensor_map.cuh"

namespace ptx {

// Where a matrix lies in shared memory, in rows of `swizzle` bytes, its start aligned to eight of them; a step of 16
// along K inside a row adds 32 bytes to the start.
//   rows along K:       groups of eight rows lie `stride` bytes apart, and `leading` is not used
//   rows along M or N:  a row has 16, 32 or 64 of them, the next lie `leading` bytes on; groups of eight along K lie
//                       `stride` bytes apart
template <Swizzle kSwizzle>
__device__ __forceinline__ std::uint64_t matrix_descriptor(std::uint32_t start, std::uint32_t stride,
                                                           std::uint32_t leading = 0) {
    static_assert(kSwizzle != Swizzle::none, "rows are swizzled as TMA has brought them");
    constexpr std::uint64_t kMode = kSwizzle == Swizzle::bytes_128 ? 1 : kSwizzle == Swizzle::bytes_64 ? 2 : 3;
    const auto field = [](std::uint32_t bytes) { return static_cast<std::uint64_t>((bytes & 0x3ffff) >> 4); };
    return field(start) | field(leading) << 16 | field(stride) << 32 | kMode << 62;
}

// The matrix `vectors` of 16 bytes further on, all else alike: one addition to the low half, where the start is the
// lowest field. All of shared memory is within its reach, so nothing is carried out of it.
__device__ __forceinline__ std::uint64_t advance_descriptor(std::uint64_t descriptor, std::uint32_t vectors) {
    return descriptor >> 32 << 32 | (static_cast<std::uint32_t>(descriptor) + vectors);
}

#ifdef __CUDACC__
// Inline assembly wants every register by its name and number.
#define ALEXKERN_NUMBERS_0_31                                                                              \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, " \
    "%22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define ALEXKERN_NUMBERS_32_47 "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47"
#define ALEXKERN_NUMBERS_48_63 "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define ALEXKERN_NUMBERS_64_95                                                                             \
    "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, %80, %81, %82, %83, " \
    "%84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95"
#define ALEXKERN_NUMBERS_96_127                                                                                \
    "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, %112, %113, " \
    "%114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"
#define ALEXKERN_REGISTERS_4(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define ALEXKERN_REGISTERS_16(i) \
    ALEXKERN_REGISTERS_4(i), ALEXKERN_REGISTERS_4(i + 4), ALEXKERN_REGISTERS_4(i + 8), ALEXKERN_REGISTERS_4(i + 12)
#define ALEXKERN_NUMBERS_64 ALEXKERN_NUMBERS_0_31
#define ALEXKERN_NUMBERS_96 ALEXKERN_NUMBERS_64 ", " ALEXKERN_NUMBERS_32_47
#define ALEXKERN_NUMBERS_128 ALEXKERN_NUMBERS_96 ", " ALEXKERN_NUMBERS_48_63
#define ALEXKERN_NUMBERS_192 ALEXKERN_NUMBERS_128 ", " ALEXKERN_NUMBERS_64_95
#define ALEXKERN_NUMBERS_256 ALEXKERN_NUMBERS_192 ", " ALEXKERN_NUMBERS_96_127
#define ALEXKERN_REGISTERS_64 ALEXKERN_REGISTERS_16(0), ALEXKERN_REGISTERS_16(16)
#define ALEXKERN_REGISTERS_96 ALEXKERN_REGISTERS_64, ALEXKERN_REGISTERS_16(32)
#define ALEXKERN_REGISTERS_128 ALEXKERN_REGISTERS_96, ALEXKERN_REGISTERS_16(48)
#define ALEXKERN_REGISTERS_192 ALEXKERN_REGISTERS_128, ALEXKERN_REGISTERS_16(64), ALEXKERN_REGISTERS_16(80)
#define ALEXKERN_REGISTERS_256 ALEXKERN_REGISTERS_192, ALEXKERN_REGISTERS_16(96), ALEXKERN_REGISTERS_16(112)
// A, B and so on: the numbers of the operands behind the registers.
#define ALEXKERN_WGMMA(TYPE, N, A, B, ACCUMULATE, TRANSPOSED_A, TRANSPOSED_B)                     \
    asm volatile(                                                                                 \
        "{\n"                                                                                     \
        ".reg .pred accumulate;\n"                                                                \
        "setp.ne.b32 accumulate, %" #ACCUMULATE                                                   \
        ", 0;\n"                                                                                  \
        "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." TYPE "." TYPE " {" ALEXKERN_NUMBERS_##N \
        "}, %" #A ", %" #B ", accumulate, 1, 1, %" #TRANSPOSED_A ", %" #TRANSPOSED_B              \
        ";\n"                                                                                     \
        "}"                                                                                       \
        : ALEXKERN_REGISTERS_##N                                                                  \
        : "l"(a), "l"(b), "r"(static_cast<int>(accumulate)), "n"(kTransposedA), "n"(kTransposedB))
#endif

// d = a b + d, or a b where not `accumulate`; kTransposed: rows along M or N.
template <typename T, int kN, bool kTransposedA, bool kTransposedB>
__device__ __forceinline__ void wgmma(float (&d)[kN / 2], std::uint64_t a, std::uint64_t b, bool accumulate) {
    constexpr bool kBf16 = std::is_same_v<T, bfloat16>;
    static_assert(kBf16 || std::is_same_v<T, float16>);
    static_assert(kN == 64 || kN == 96 || kN == 128 || kN == 192 || kN == 256);
#ifdef __CUDACC__
    if constexpr (kBf16 && kN == 64) {
        ALEXKERN_WGMMA("bf16", 64, 32, 33, 34, 35, 36);
    } else if constexpr (kBf16 && kN == 96) {
        ALEXKERN_WGMMA("bf16", 96, 48, 49, 50, 51, 52);
    } else if constexpr (kBf16 && kN == 128) {
        ALEXKERN_WGMMA("bf16", 128, 64, 65, 66, 67, 68);
    } else if constexpr (kBf16 && kN == 192) {
        ALEXKERN_WGMMA("bf16", 192, 96, 97, 98, 99, 100);
    } else if constexpr (kBf16 && kN == 256) {
        ALEXKERN_WGMMA("bf16", 256, 128, 129, 130, 131, 132);
    } else if constexpr (!kBf16 && kN == 64) {
        ALEXKERN_WGMMA("f16", 64, 32, 33, 34, 35, 36);
    } else if constexpr (!kBf16 && kN == 96) {
        ALEXKERN_WGMMA("f16", 96, 48, 49, 50, 51, 52);
    } else if constexpr (!kBf16 && kN == 128) {
        ALEXKERN_WGMMA("f16", 128, 64, 65, 66, 67, 68);
    } else if constexpr (!kBf16 && kN == 192) {
        ALEXKERN_WGMMA("f16", 192, 96, 97, 98, 99, 100);
    } else if constexpr (!kBf16 && kN == 256) {
        ALEXKERN_WGMMA("f16", 256, 128, 129, 130, 131, 132);
    }
#else
    emulator::warpgroup_multiply(kBf16 ? emulator::Element::bf16 : emulator::Element::fp16, kN, d,
                                 {a, b, kTransposedA, kTransposedB}, accumulate);
#endif
}

#ifdef __CUDACC__
#undef ALEXKERN_NUMBERS_0_31
#undef ALEXKERN_NUMBERS_32_47
#undef ALEXKERN_NUMBERS_48_63
#undef ALEXKERN_NUMBERS_64_95
#undef ALEXKERN_NUMBERS_96_127
#undef ALEXKERN_REGISTERS_4
#undef ALEXKERN_REGISTERS_16
#undef ALEXKERN_NUMBERS_64
#undef ALEXKERN_NUMBERS_96
#undef ALEXKERN_NUMBERS_128
#undef ALEXKERN_NUMBERS_192
#undef ALEXKERN_NUMBERS_256
#undef ALEXKERN_REGISTERS_64
#undef ALEXKERN_REGISTERS_96
#undef ALEXKERN_REGISTERS_128
#undef ALEXKERN_REGISTERS_192
#undef ALEXKERN_REGISTERS_256
#undef ALEXKERN_WGMMA
#endif

// Before the first product of a group: what the threads did with d is done.
__device__ __forceinline__ void wgmma_fence() {
#ifdef __CUDACC__
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#else
    emulator::warpgroup_fence();
#endif
}

// Closes the products since the last commit into a group.
__device__ __forceinline__ void wgmma_commit_group() {
#ifdef __CUDACC__
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
#else
    emulator::warpgroup_commit_group();
#endif
}

// Waits until at most the kPending newest groups are running. d: what they accumulate in, so that the compiler moves no
// use of it across the wait.
template <int kPending, int kRegisters>
__device__ __forceinline__ void wgmma_wait_group(float (&d)[kRegisters]) {
#ifdef __CUDACC__
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
#pragma unroll
    for (int i = 0; i < kRegisters; ++i) asm volatile("" : "+f"(d[i])::"memory");
#else
    static_cast<void>(d);
    emulator::warpgroup_wait_group(kPending);
#endif
}

}  // namespace ptx
