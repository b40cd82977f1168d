// What both kernels' launchers and epilogues share.
#pragma once

#include <algorithm>
#include <stdexcept>
#include <string>

#include "../elements.cuh"
#include "../ptx/launch.cuh"
#include "ring.cuh"

// Other targets compile these kernels empty, and are never asked to run them.
#if !defined(__CUDACC__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define ALEXKERN_HAS_WGMMA
#endif

namespace alexkern::sm90 {

// This thread's sums of kN along N, from kFirst on: to upper those of its first row, to lower those eight rows below,
// where there are such rows; of each as many as there are, `count`.
template <int kFirst, int kN, int kRegisters>
__device__ __forceinline__ void store_sums(const float (&sum)[kRegisters], float* upper, float* lower, int count) {
#pragma unroll
    for (int n = 0; n < kN; n += 8) {
        const float* const pair = sum + (kFirst + n) / 2;
        if (n >= count) continue;
        if (upper != nullptr) *reinterpret_cast<float2*>(upper + n) = make_float2(pair[0], pair[1]);
        if (lower != nullptr) *reinterpret_cast<float2*>(lower + n) = make_float2(pair[2], pair[3]);
    }
}

template <typename Function>
void with_half_type(Element element, Function&& function) {
    with_type(element, [&](auto type) {
        if constexpr (sizeof(type) == 2) {
            function(type);
        } else {
            throw std::invalid_argument("conv2d_relu on sm_90a: 16-bit elements are wanted");
        }
    });
}

inline Tiles tiles_of(std::int64_t across, std::int64_t down, std::int64_t splits, std::int64_t batches,
                      std::int64_t steps) {
    const std::int64_t count = across * down * splits * batches;
    if (count > 0x7fffffff || splits * steps > 0x7fffffff)
        throw std::runtime_error("conv2d_relu on sm_90a: too many tiles for one launch");
    return {Divider(across), Divider(down), Divider(splits), static_cast<std::uint32_t>(count),
            static_cast<std::uint32_t>(steps)};
}

// Of (N, H, W, groups, C), by which taps gather `pixels` outputs' inputs, kRowValues channels at a time.
template <typename Params>
ptx::TensorMap input_map(const Params& v, int pixels) {
    const auto u64 = [](std::int64_t value) { return static_cast<std::uint64_t>(value); };
    const auto u32 = [](int value) { return static_cast<std::uint32_t>(value); };
    const std::uint64_t pixel = u64(v.groups) * v.C * 2;  // bytes
    // The first tap of the last output, from the image's last row and column.
    const auto upper = [](const Axis& axis, int outputs, int size) {
        return (outputs - 1) * axis.stride - axis.padding - (size - 1);
    };
    return ptx::encode_im2col(v.input, {u64(v.groups) * v.C, u64(v.W), u64(v.H), u64(v.N)},
                              {pixel, pixel * v.W, pixel * v.W * v.H}, {-v.horizontal.padding, -v.vertical.padding},
                              {upper(v.horizontal, v.Q, v.W), upper(v.vertical, v.P, v.H)}, u32(kRowValues),
                              u32(pixels), {u32(v.horizontal.stride), u32(v.vertical.stride)}, ptx::Swizzle::bytes_128);
}

}  // namespace alexkern::sm90
