// Space to depth: blocks of 4 x 4 pixels become channels, with the convolution's padding taken in.
//
//   y[n, i, j, (4 a + b) C + c] = x[n, c, 4 i + a - padding, 4 j + b - padding], 0 outside of x
//
// It turns a convolution of stride 4 over few channels into one of stride 1 over 16 C channels, which TMA can gather:
// AlexNet's first layer (11 x 11, 3 channels) becomes 3 x 3 over 48. Filters take the same way, without padding, their
// twelfth row and column 0. What is read may have any strides. A thread writes eight values; memory bounds it.
#include "../ptx/launch.cuh"
#include "hopper.h"

namespace alexkern::hopper {
namespace {

constexpr int kFactor = 4, kRun = 8, kThreadsOfABlock = 256;

__global__ void __launch_bounds__(kThreadsOfABlock) space_to_depth_kernel(const __grid_constant__ DepthParams p) {
    const int channels = kFactor * kFactor * p.C, runs = channels / kRun;
    const std::int64_t index = static_cast<std::int64_t>(blockIdx.x) * kThreadsOfABlock + threadIdx.x;
    const std::int64_t pixel = index / runs, line = pixel / p.width;
    if (line >= static_cast<std::int64_t>(p.N) * p.height) return;
    const int n = static_cast<int>(line / p.height), i = static_cast<int>(line % p.height);
    const int j = static_cast<int>(pixel % p.width), first = static_cast<int>(index % runs) * kRun;
    int c = first % p.C, b = first / p.C % kFactor, a = first / p.C / kFactor;
    const std::uint16_t* const image = static_cast<const std::uint16_t*>(p.source) + n * p.stride_N;
    std::uint32_t words[kRun / 2] = {};
#pragma unroll
    for (int k = 0; k < kRun; ++k) {
        const int h = kFactor * i + a - p.padding_H, w = kFactor * j + b - p.padding_W;
        if (h >= 0 && h < p.H && w >= 0 && w < p.W) {
            const std::uint32_t value = image[c * p.stride_C + h * p.stride_H + w * p.stride_W];
            words[k / 2] |= value << 16 * (k % 2);
        }
        if (++c == p.C) {
            c = 0;
            if (++b == kFactor) {
                b = 0;
                ++a;
            }
        }
    }
    reinterpret_cast<uint4*>(p.destination)[index] = make_uint4(words[0], words[1], words[2], words[3]);
}

}  // namespace

void space_to_depth(const DepthParams& params, Stream stream) {
    const std::int64_t runs =
        static_cast<std::int64_t>(params.N) * params.height * params.width * kFactor * kFactor * params.C / kRun;
    const std::int64_t blocks = (runs + kThreadsOfABlock - 1) / kThreadsOfABlock;
    if (blocks > 0x7fffffff) throw std::runtime_error("space_to_depth: too large for one grid");
    ptx::launch("space_to_depth", space_to_depth_kernel, dim3(static_cast<unsigned>(blocks)), kThreadsOfABlock, 0,
                stream, params);
}

}  // namespace alexkern::hopper
