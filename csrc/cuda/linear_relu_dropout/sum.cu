// What follows a product whose GEMM_K was split: the sums, added in a fixed order, then bias, ReLU and dropout.
//
//   y[i] = relu(bias[i % K] + sum over splits of partials[split, i]) * (scale where kept, 0 where dropped)
#include "../elementwise.cuh"
#include "../philox.cuh"
#include "linear_relu_dropout.h"

namespace alexkern::linear_relu_dropout {
namespace {

using namespace elementwise;

template <typename T, bool kDrops>
__global__ void __launch_bounds__(kThreads, 6)  // blocks: aiming at more, ptxas spills
    sum_kernel(const __grid_constant__ SumParams p, bool aligned, philox::Rule rule) {
    const std::int64_t first = first_element();
    if (first >= p.count) return;
    float value[kRun];
    load(p.partials + first, kRun, true, value);
    for (int split = 1; split < p.splits; ++split) {
        float more[kRun];
        load(p.partials + split * p.count + first, kRun, true, more);
#pragma unroll
        for (int i = 0; i < kRun; ++i) value[i] += more[i];
    }
    if (p.bias != nullptr) {
        float bias[kRun];
        load(static_cast<const T*>(p.bias) + first % p.K, kRun, aligned, bias);
#pragma unroll
        for (int i = 0; i < kRun; ++i) value[i] += bias[i];
    }
#pragma unroll
    for (int i = 0; i < kRun; ++i) value[i] = value[i] < 0.0f ? 0.0f : value[i];  // NaN and -0 stay
    if constexpr (kDrops) {
        float factor[kRun];
        philox::factors(rule, first, factor);
        // Rounded before the mask is taken: what becomes 0 is clipped.
#pragma unroll
        for (int i = 0; i < kRun; ++i) value[i] = ptx::to_float(ptx::from_float<T>(value[i] * factor[i]));
        if (p.mask != nullptr) p.mask[first / kRun] = philox::passing(value, factor);
    }
    store(static_cast<T*>(p.output) + first, kRun, true, value);
}

}  // namespace

void sum(Element element, const SumParams& params, Stream stream) {
    if (params.count == 0) return;
    const philox::Rule rule = {params.seed, params.limit, params.scale};
    with_type(element, [&](auto type) {
        using T = decltype(type);
        if constexpr (sizeof(T) == 2) {
            const auto kernel = params.seed != nullptr ? sum_kernel<T, true> : sum_kernel<T, false>;
            ptx::launch("linear_relu_dropout_sum", kernel, grid(params.count), dim3(kThreads), 0, stream, params,
                        is_aligned(params.bias), rule);
        } else {
            throw std::invalid_argument("linear_relu_dropout_sum: 16-bit elements are wanted");
        }
    });
}

}  // namespace alexkern::linear_relu_dropout
