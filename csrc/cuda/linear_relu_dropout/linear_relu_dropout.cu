// ReLU and dropout in place, and their gradient's mask and scale.
#include "../elementwise.cuh"
#include "../philox.cuh"
#include "linear_relu_dropout.h"

namespace alexkern::linear_relu_dropout {
namespace {

using namespace elementwise;

template <typename T, bool kDrops>
__global__ void __launch_bounds__(kThreads)
    forward_kernel(T* values, std::uint8_t* mask, std::int64_t count, bool aligned, philox::Rule rule) {
    const std::int64_t first = first_element();
    if (first >= count) return;
    float value[kRun];
    load(values + first, count - first, aligned, value);
#pragma unroll
    for (int i = 0; i < kRun; ++i) value[i] = value[i] < 0.0f ? 0.0f : value[i];  // NaN and -0 stay
    if constexpr (kDrops) {
        float factor[kRun];
        philox::factors(rule, first, factor);
        if (mask != nullptr) mask[first / kRun] = philox::passing(value, factor);
#pragma unroll
        for (int i = 0; i < kRun; ++i) value[i] *= factor[i];
    }
    store(values + first, count - first, aligned, value);
}

template <typename T, bool kDrops>
__global__ void __launch_bounds__(kThreads) backward_kernel(const T* grad, const T* output, const std::uint8_t* mask,
                                                            T* masked, std::int64_t count, bool aligned, float scale) {
    const std::int64_t first = first_element();
    if (first >= count) return;
    float gradient[kRun];
    load(grad + first, count - first, aligned, gradient);
    if constexpr (kDrops) {
        const unsigned bits = mask[first / kRun];
#pragma unroll
        for (int i = 0; i < kRun; ++i) gradient[i] = (bits >> i & 1) != 0 ? gradient[i] * scale : 0.0f;
    } else {
        float y[kRun];
        load(output + first, count - first, aligned, y);
#pragma unroll
        for (int i = 0; i < kRun; ++i) gradient[i] = y[i] <= 0.0f ? 0.0f : gradient[i];
    }
    store(masked + first, count - first, aligned, gradient);
}

}  // namespace

void forward(const ForwardParams& params, Stream stream) {
    if (params.count == 0) return;
    const philox::Rule rule = {params.seed, params.limit, params.scale};
    with_type(params.element, [&](auto type) {
        using T = decltype(type);
        const auto kernel = params.seed != nullptr ? forward_kernel<T, true> : forward_kernel<T, false>;
        ptx::launch("linear_relu_dropout_forward", kernel, grid(params.count), dim3(kThreads), 0, stream,
                    static_cast<T*>(params.values), params.mask, params.count, is_aligned(params.values), rule);
    });
}

void backward(const BackwardParams& params, Stream stream) {
    if (params.count == 0) return;
    const bool aligned = is_aligned(params.masked) && is_aligned(params.grad) && is_aligned(params.output);
    with_type(params.element, [&](auto type) {
        using T = decltype(type);
        const auto kernel = params.mask != nullptr ? backward_kernel<T, true> : backward_kernel<T, false>;
        ptx::launch("linear_relu_dropout_backward", kernel, grid(params.count), dim3(kThreads), 0, stream,
                    static_cast<const T*>(params.grad), static_cast<const T*>(params.output), params.mask,
                    static_cast<T*>(params.masked), params.count, aligned, params.scale);
    });
}

}  // namespace alexkern::linear_relu_dropout
