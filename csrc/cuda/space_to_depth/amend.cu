// Outputs near an infinity or a NaN, computed again over their own windows.
//
// The product over space_to_depth's images has rows and columns of zeros behind each filter, up to a multiple of four:
// what lies there, just outside of a window, is multiplied by 0, and NaN comes of it where that is not finite. A warp
// looks after a line of outputs. It reads the marks of the lines that its windows lie in, a few bytes, and is done
// where there are none: nearly always. Else every output of its line that is NaN is summed again, without those rows
// and columns; in fp64, because one thread adds all of it. What is NaN for torch is so still.
#include "../elements.cuh"
#include "../ptx/launch.cuh"
#include "space_to_depth.h"

namespace alexkern::space_to_depth {
namespace {

constexpr int kWarp = 32, kThreads = 256;

template <typename T>
__device__ __forceinline__ double window(const AmendParams& p, int n, int k, int row, int column, int height,
                                         int width) {
    const int blocks_r = (p.R + kFactor - 1) / kFactor, blocks_s = (p.S + kFactor - 1) / kFactor;
    const T* const images = static_cast<const T*>(p.images);
    const T* const filters = static_cast<const T*>(p.filters);
    double sum = 0.0;
    for (int r = 0; r < p.R; ++r) {
        for (int s = 0; s < p.S; ++s) {
            const std::int64_t line = static_cast<std::int64_t>(n) * height + row + r / kFactor;
            const std::int64_t tap = (static_cast<std::int64_t>(k) * blocks_r + r / kFactor) * blocks_s + s / kFactor;
            const int place = r % kFactor * kFactor + s % kFactor;
            const T* const pixel = images + ((line * width + column + s / kFactor) * kFactor * kFactor + place) * p.C;
            const T* const filter = filters + (tap * kFactor * kFactor + place) * p.C;
            for (int c = 0; c < p.C; ++c) {
                sum += static_cast<double>(ptx::to_float(pixel[c])) * static_cast<double>(ptx::to_float(filter[c]));
            }
        }
    }
    return sum;
}

template <typename T>
__global__ void __launch_bounds__(kThreads) amend_kernel(const __grid_constant__ AmendParams p, int marks) {
    const int blocks_r = (p.R + kFactor - 1) / kFactor, blocks_s = (p.S + kFactor - 1) / kFactor;
    const int height = p.P + blocks_r - 1, width = p.Q + blocks_s - 1;
    const std::int64_t line = (static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x) / kWarp;
    const int lane = threadIdx.x % kWarp;
    if (line >= static_cast<std::int64_t>(p.N) * p.P) return;  // the whole warp
    const int n = static_cast<int>(line / p.P), row = static_cast<int>(line % p.P);
    const std::uint8_t* const marked = p.marks + (static_cast<std::int64_t>(n) * height + row) * marks;
    bool any = false;
    for (int i = lane; i < blocks_r * marks; i += kWarp) any |= marked[i] != 0;
    if (!__any_sync(0xffffffffu, any)) return;

    T* const output = static_cast<T*>(p.output) + n * p.stride_N + row * p.stride_P;
    for (std::int64_t i = lane; i < static_cast<std::int64_t>(p.Q) * p.K; i += kWarp) {
        const int q = static_cast<int>(i / p.K), k = static_cast<int>(i % p.K);
        T& value = output[k * p.stride_K + q * p.stride_Q];
        const float found = ptx::to_float(value);
        if (found == found) continue;
        float sum = static_cast<float>(window<T>(p, n, k, row, q, height, width));
        if (p.bias != nullptr) sum += ptx::to_float(static_cast<const T*>(p.bias)[k]);
        value = ptx::from_float<T>(sum < 0.0f ? 0.0f : sum);
    }
}

}  // namespace

void amend(Element element, const AmendParams& params, Stream stream) {
    const std::int64_t lines = static_cast<std::int64_t>(params.N) * params.P;
    if (lines * params.Q * params.K == 0) return;
    constexpr int kLines = kThreads / kWarp;
    const std::int64_t blocks = (lines + kLines - 1) / kLines;
    if (blocks > 0x7fffffff) throw std::runtime_error("space_to_depth: too large for one grid");
    const int marks = marks_per_line(params.Q + (params.S + kFactor - 1) / kFactor - 1);
    with_type(element, [&](auto type) {
        ptx::launch("space_to_depth's amendment", amend_kernel<decltype(type)>, dim3(static_cast<unsigned>(blocks)),
                    kThreads, 0, stream, params, marks);
    });
}

}  // namespace alexkern::space_to_depth
