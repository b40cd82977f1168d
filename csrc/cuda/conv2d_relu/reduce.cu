// The splits' sums, added in a fixed order; then what an epilogue does.
#include "store.cuh"
#include "traits.cuh"

namespace alexkern::conv2d_relu {
namespace {

constexpr int kThreads = 256;

template <typename T>
__global__ void __launch_bounds__(kThreads) reduce_kernel(const __grid_constant__ ReduceParams p) {
    const Image& output = p.output;
    const int all_channels = p.groups * p.padded_C, channels = output.C / p.groups;
    const std::int64_t values = static_cast<std::int64_t>(output.N) * output.H * output.W * all_channels;
    const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
    if (i >= values) return;
    const int channel = static_cast<int>(i % all_channels);
    const int group = channel / p.padded_C, c = channel % p.padded_C;
    if (c >= channels) return;
    double total = 0.0;  // few additions, and not worth a rounding error each
#pragma unroll 8
    for (int split = 0; split < p.splits; ++split) total += p.partials[split * values + i];
    float sum = static_cast<float>(total);
    const int output_c = group * channels + c;
    if (p.bias != nullptr) sum += ptx::to_float(static_cast<const T*>(p.bias)[output_c]);
    const std::int64_t pixel = i / all_channels, line = pixel / output.W;
    const std::int64_t offset = line / output.H * output.stride_N + output_c * output.stride_C +
                                line % output.H * output.stride_H + pixel % output.W * output.stride_W;
    static_cast<T*>(output.data)[offset] = ptx::from_float<T>(finished(sum, p.relu));
}

}  // namespace

void reduce(Element element, const ReduceParams& params, Stream stream) {
    const Image& output = params.output;
    const std::int64_t values =
        static_cast<std::int64_t>(output.N) * output.H * output.W * params.groups * params.padded_C;
    if (values == 0) return;
    with_type(element, [&](auto zero) {
        ptx::launch("conv2d_relu's sum of splits", reduce_kernel<decltype(zero)>,
                    grid_of(divide_up<std::int64_t>(values, kThreads), "the sum of splits"), kThreads, 0, stream,
                    params);
    });
}

}  // namespace alexkern::conv2d_relu
