// dropout: y = x * scale where Philox keeps the element, x * 0 where it does not. Backward is the same on the gradient.
// One read and one write of every element, no mask: what is kept is computed again wherever it is needed. Its rung is
// examples/ladder/dropout.py, seeded.
#include "../../plain.h"
#include "../elementwise.cuh"
#include "../philox.cuh"

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

// input [count], dense; output in the same order, which may be the input; seed [2]: seed and offset; limit
// floor(p * 2**32); scale 1 / (1 - p), and 0 for p = 1.
void run(int element, Address input, Address output, Address seed, std::int64_t count, std::uint64_t limit, float scale,
         Address stream) {
    if (count == 0) return;
    const bool aligned = is_aligned(pointer(input)) && is_aligned(pointer(output));
    const philox::Rule rule = {pointer<const std::int64_t>(seed), limit, scale};
    with_type(static_cast<Element>(element), [&](auto type) {
        using T = decltype(type);
        ptx::launch("dropout", dropout_kernel<T>, grid(count), dim3(kThreads), 0, pointer<CUstream_st>(stream),
                    pointer<const T>(input), pointer<T>(output), count, aligned, rule);
    });
}

}  // namespace alexkern::dropout
