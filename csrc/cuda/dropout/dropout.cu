// One read and one write of every element, no mask: what is kept is computed again wherever it is needed. Its rung is
// examples/ladder/dropout.py, seeded.
#include "../elementwise.cuh"
#include "../philox.cuh"
#include "dropout.h"

namespace alexkern::dropout {
namespace {

using namespace elementwise;

template <typename T>
__global__ void __launch_bounds__(kThreads)
    dropout_kernel(const T* input, T* output, std::int64_t count, bool aligned, philox::Rule rule) {
    const std::int64_t first = first_element();
    if (first >= count) return;
    float values[kRun], factor[kRun];
    load(input + first, count - first, aligned, values);
    philox::factors(rule, first, factor);
    // Multiplying by 0, not storing 0: a dropped NaN or infinity is NaN.
#pragma unroll
    for (int i = 0; i < kRun; ++i) values[i] *= factor[i];
    store(output + first, count - first, aligned, values);
}

}  // namespace

void forward(const Params& params, Stream stream) {
    if (params.count == 0) return;
    const bool aligned = is_aligned(params.input) && is_aligned(params.output);
    const philox::Rule rule = {params.seed, params.limit, params.scale};
    with_type(params.element, [&](auto type) {
        using T = decltype(type);
        ptx::launch("dropout", dropout_kernel<T>, grid(params.count), dim3(kThreads), 0, stream,
                    static_cast<const T*>(params.input), static_cast<T*>(params.output), params.count, aligned, rule);
    });
}

}  // namespace alexkern::dropout
