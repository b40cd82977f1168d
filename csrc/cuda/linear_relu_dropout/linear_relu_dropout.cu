// ReLU and dropout in place, and their gradient's mask and scale: dropout's bits are computed again, never stored.
#include "../elementwise.cuh"
#include "../philox.cuh"
#include "linear_relu_dropout.h"

namespace alexkern::linear_relu_dropout {
namespace {

using namespace elementwise;

template <typename T, bool kDrops>
__global__ void __launch_bounds__(kThreads)
    forward_kernel(T* values, std::int64_t count, bool aligned, philox::Rule rule) {
    const std::int64_t first = first_element();
    if (first >= count) return;
    float value[kRun];
    load(values + first, count - first, aligned, value);
#pragma unroll
    for (int i = 0; i < kRun; ++i) value[i] = value[i] < 0.0f ? 0.0f : value[i];  // NaN and -0 stay
    if constexpr (kDrops) {
        float factor[kRun];
        philox::factors(rule, first, factor);
#pragma unroll
        for (int i = 0; i < kRun; ++i) value[i] *= factor[i];
    }
    store(values + first, count - first, aligned, value);
}

template <typename T, bool kDrops>
__global__ void __launch_bounds__(kThreads)
    backward_kernel(const T* grad, const T* output, T* masked, std::int64_t count, bool aligned, philox::Rule rule) {
    const std::int64_t first = first_element();
    if (first >= count) return;
    float gradient[kRun], y[kRun];
    load(grad + first, count - first, aligned, gradient);
    load(output + first, count - first, aligned, y);
    if constexpr (kDrops) {
        // A dropped element's output is 0, which the mask sees too, unless it was NaN: so the bits decide, not the
        // mask.
        float factor[kRun];
        philox::factors(rule, first, factor);
#pragma unroll
        for (int i = 0; i < kRun; ++i) gradient[i] = factor[i] == 0.0f ? 0.0f : gradient[i] * factor[i];
    }
#pragma unroll
    for (int i = 0; i < kRun; ++i) gradient[i] = y[i] <= 0.0f ? 0.0f : gradient[i];
    store(masked + first, count - first, aligned, gradient);
}

}  // namespace

void forward(const Params& params, Stream stream) {
    if (params.count == 0) return;
    const philox::Rule rule = {params.seed, params.limit, params.scale};
    with_type(params.element, [&](auto type) {
        using T = decltype(type);
        const auto kernel = params.seed != nullptr ? forward_kernel<T, true> : forward_kernel<T, false>;
        ptx::launch("linear_relu_dropout_forward", kernel, grid(params.count), dim3(kThreads), 0, stream,
                    static_cast<T*>(params.values), params.count, is_aligned(params.values), rule);
    });
}

void backward(const Params& params, Stream stream) {
    if (params.count == 0) return;
    const bool aligned = is_aligned(params.values) && is_aligned(params.grad) && is_aligned(params.output);
    const philox::Rule rule = {params.seed, params.limit, params.scale};
    with_type(params.element, [&](auto type) {
        using T = decltype(type);
        const auto kernel = params.seed != nullptr ? backward_kernel<T, true> : backward_kernel<T, false>;
        ptx::launch("linear_relu_dropout_backward", kernel, grid(params.count), dim3(kThreads), 0, stream,
                    static_cast<const T*>(params.grad), static_cast<const T*>(params.output),
                    static_cast<T*>(params.values), params.count, aligned, rule);
    });
}

}  // namespace alexkern::linear_relu_dropout
