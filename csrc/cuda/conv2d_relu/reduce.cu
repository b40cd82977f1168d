// The splits' sums, added in a fixed order; then what an epilogue does.
#include "../divider.h"
#include "store.cuh"
#include "traits.cuh"

namespace alexkern::conv2d_relu {
namespace {

constexpr int kThreads = 64;  // few: there are few sums for a whole GPU
constexpr int kBlocks = 16;   // of a multiprocessor: aiming at more, ptxas brings the splits two by two

struct Kernel : ReduceParams {
    std::int64_t values;  // of a split
    std::uint32_t runs;   // of kWidth neighbouring channels
    int channels;         // of a group, of the output
    Divider runs_of_pixel, runs_of_group, by_W, by_H;
    bool dense;  // runs lie side by side in the output as well, each aligned to its size
};

// Neighbours to memory aligned to all of them.
template <typename T, int kWidth>
__device__ __forceinline__ void store_run(T* output, const float (&values)[kWidth]) {
    if constexpr (kWidth == 4 && sizeof(T) == 2) {
        *reinterpret_cast<uint2*>(output) =
            make_uint2(ptx::pack<T>(values[0], values[1]), ptx::pack<T>(values[2], values[3]));
    } else {
        store_vector(output, values);
    }
}

template <typename T, int kWidth>
__global__ void __launch_bounds__(kThreads, kBlocks) reduce_kernel(const __grid_constant__ Kernel p) {
    std::uint32_t pixel = blockIdx.x * kThreads + threadIdx.x;
    if (pixel >= p.runs) return;
    const float* partials = p.partials + std::int64_t{pixel} * kWidth;
    std::uint32_t group = split_off(pixel, p.runs_of_pixel);
    const int c = static_cast<int>(split_off(group, p.runs_of_group)) * kWidth;
    if (c >= p.channels) return;
    double total[kWidth] = {};  // few additions, and not worth a rounding error each
#pragma unroll 8
    for (int split = 0; split < p.splits; ++split) {
        float part[kWidth];
        load_constant_vector(partials, part);
        partials += p.values;
#pragma unroll
        for (int j = 0; j < kWidth; ++j) total[j] += part[j];
    }
    const std::uint32_t w = split_off(pixel, p.by_W), h = split_off(pixel, p.by_H);
    const int output_c = static_cast<int>(group) * p.channels + c;
    T* const output = static_cast<T*>(p.output.data) + pixel * p.output.stride_N + output_c * p.output.stride_C +
                      h * p.output.stride_H + w * p.output.stride_W;
    float sums[kWidth];
#pragma unroll
    for (int j = 0; j < kWidth; ++j) {
        sums[j] = static_cast<float>(total[j]);
        if (p.bias != nullptr && c + j < p.channels) {
            sums[j] += ptx::to_float(static_cast<const T*>(p.bias)[output_c + j]);
        }
        sums[j] = finished(sums[j], p.relu);
    }
    if (p.dense && c + kWidth <= p.channels) {
        store_run(output, sums);
        return;
    }
#pragma unroll
    for (int j = 0; j < kWidth; ++j) {
        if (c + j < p.channels) output[j * p.output.stride_C] = ptx::from_float<T>(sums[j]);
    }
}

template <typename T, int kWidth>
void run(const ReduceParams& params, std::int64_t values, Stream stream) {
    const Image& output = params.output;
    const std::int64_t runs = values / kWidth;
    if (runs > 0x7fffffff) throw std::runtime_error("conv2d_relu: the sum of splits: too many values for one launch");
    const int of_group = params.padded_C / kWidth, channels = output.C / params.groups;
    const auto whole = [](std::int64_t stride) { return stride % kWidth == 0; };
    const bool dense = output.stride_C == 1 && whole(output.stride_N) && whole(output.stride_H) &&
                       whole(output.stride_W) && whole(channels) &&
                       reinterpret_cast<std::uintptr_t>(output.data) % (kWidth * sizeof(T)) == 0;
    ptx::launch("conv2d_relu's sum of splits", reduce_kernel<T, kWidth>,
                grid_of(divide_up<std::int64_t>(runs, kThreads), "the sum of splits"), kThreads, 0, stream,
                Kernel{params, values, static_cast<std::uint32_t>(runs), channels, Divider(params.groups * of_group),
                       Divider(of_group), Divider(output.W), Divider(output.H), dense});
}

}  // namespace

void reduce(Element element, const ReduceParams& params, Stream stream) {
    const Image& output = params.output;
    const std::int64_t values =
        static_cast<std::int64_t>(output.N) * output.H * output.W * params.groups * params.padded_C;
    if (values == 0) return;
    with_type(element, [&](auto zero) {
        using T = decltype(zero);
        if (params.padded_C % 4 == 0 && is_aligned(params.partials)) {
            run<T, 4>(params, values, stream);
        } else {
            run<T, 1>(params, values, stream);
        }
    });
}

}  // namespace alexkern::conv2d_relu
