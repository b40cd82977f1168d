// y = x / e^beta, e = k + alpha / size * (sum of x^2 over neighbouring channels), and its gradient
//
//   dx = dy / e^beta - 2 alpha beta / size * x * (sum of dy y / e over the channels in whose windows x stands)
//
// A bundle is what one thread has at hand: all channels of one pixel where they lie side by side (a step of 1 from
// channel to channel), else all channels of LANES pixels (a step of LANES). Either is a row of C * step numbers in
// which neighbouring channels are `step` apart: one code for both, and every input is read from memory once. Squares
// lie between zeros for the channels that are not there. A window is added up anew for every channel: a running sum
// would keep the rounding errors of large channels.
#include "local_response_norm.h"

#include "../parallel.h"
#include "../simd.h"

#if defined(_OPENMP)
#include <omp.h>
#endif

namespace alexkern::local_response_norm {

namespace {

using namespace ALEXKERN_ISA;

// Where the parts of a bundle lie in the workspace.
struct Bundle {
    Index step, before, after;  // channels beside one that are in its window
    Index length;               // C * step numbers, in whole vectors
    Index padded;               // with the zeros beside them

    Bundle(Index C, Index stride_c, Index size)
        : step(stride_c == 1 ? 1 : LANES),
          before(smaller(size / 2, C - 1)),
          after(smaller((size - 1) / 2, C - 1)),
          length((C * step + LANES - 1) / LANES * LANES),
          padded(length + (before + after) * step) {}
    Index size() const { return 2 * padded + 3 * length; }
};

// The sum over a window whose first number is at `from`.
inline Floats window_sum(const float* from, Index count, Index step) {
    Floats sum = load<Floats>(from);
    for (Index i = 1; i < count; ++i) sum += load<Floats>(from + i * step);
    return sum;
}

// e^-beta
template <bool THREE_QUARTERS>
inline Floats power(Floats e, float beta) {
    if (THREE_QUARTERS) {
        const Floats root = square_root(e);
        return 1.0f / (root * square_root(root));
    }
    for (int i = 0; i < LANES; ++i) e[i] = __builtin_powf(e[i], -beta);
    return e;
}

template <bool THREE_QUARTERS>
void normalise(const Call& call, const Bundle& bundle, const float* x, const float* dy, float* result, float* squares) {
    const Index count = bundle.before + bundle.after + 1;
    float* inner = squares + bundle.before * bundle.step;
    for (Index i = 0; i < bundle.length; i += LANES) {
        const Floats value = load<Floats>(x + i);
        store(inner + i, value * value);
    }
    // Forward windows begin `before` channels ahead, those of the backward `after`: the sum's first place is the
    // array's.
    float* shared = squares + bundle.padded;
    for (Index i = 0; i < bundle.length; i += LANES) {
        const Floats value = load<Floats>(x + i);
        const Floats e = window_sum(squares + i, count, bundle.step) * call.alpha + call.k;
        if (!dy) {
            store(result + i, value * power<THREE_QUARTERS>(e, call.beta));
            continue;
        }
        const Floats scaled = load<Floats>(dy + i) * power<THREE_QUARTERS>(e, call.beta);
        store(result + i, scaled);
        store(shared + bundle.after * bundle.step + i, scaled * value / e);
    }
    if (!dy) return;
    for (Index i = call.C * bundle.step; i < bundle.length; ++i)
        shared[bundle.after * bundle.step + i] = 0;  // no channels: 0 / 0
    const float factor = 2 * call.alpha * call.beta;
    for (Index i = 0; i < bundle.length; i += LANES) {
        const Floats sum = window_sum(shared + i, count, bundle.step) * load<Floats>(x + i);
        store(result + i, load<Floats>(result + i) - factor * sum);
    }
}

// From a tensor to a bundle: `pixels` of them where its step is LANES, one where it is 1.
template <typename T>
inline void read(const Call& call, const Bundle& bundle, const T* tensor, float* buffer, int pixels) {
    if (bundle.step == 1) {
        for (Index c = 0; c < call.C; c += LANES) store_some(buffer + c, load_some(tensor + c, call.C - c), call.C - c);
        return;
    }
    for (Index c = 0; c < call.C; ++c, tensor += call.stride_c, buffer += LANES) {
        store(buffer, load_some(tensor, pixels));
    }
}

// And back.
template <typename T>
inline void write(const Call& call, const Bundle& bundle, const float* buffer, T* tensor, int pixels) {
    if (bundle.step == 1) {
        for (Index c = 0; c < call.C; c += LANES) store_some(tensor + c, load_some(buffer + c, call.C - c), call.C - c);
        return;
    }
    for (Index c = 0; c < call.C; ++c, tensor += call.stride_c, buffer += LANES) {
        store_some(tensor, load(buffer), pixels);
    }
}

template <bool THREE_QUARTERS, typename T>
void normalise_all(const Call& call, const Bundle& bundle) {
    const T *input = static_cast<const T*>(call.input), *grad = static_cast<const T*>(call.grad);
    T* output = static_cast<T*>(call.result);
    const Index bundles = (call.L + bundle.step - 1) / bundle.step;
    parallel(call.threads, call.N * bundles, 8 * call.C * bundle.step, [&](Index begin, Index end) {
#if defined(_OPENMP)
        float* space = call.workspace + omp_get_thread_num() * bundle.size();
#else
        float* space = call.workspace;
#endif
        float *squares = space, *x = space + 2 * bundle.padded, *dy = x + bundle.length, *result = dy + bundle.length;
        for (Index i = 0; i < bundle.size(); ++i) space[i] = 0;
        for (Index unit = begin; unit < end; ++unit) {
            const Index pixel = unit % bundles * bundle.step;
            const Index at = unit / bundles * call.stride_n + pixel * call.stride_l;
            const int pixels = static_cast<int>(smaller(bundle.step, call.L - pixel));
            read(call, bundle, input + at, x, pixels);
            if (grad) read(call, bundle, grad + at, dy, pixels);
            normalise<THREE_QUARTERS>(call, bundle, x, grad ? dy : nullptr, result, squares);
            write(call, bundle, result, output + at, pixels);
        }
    });
}

}  // namespace

template <>
std::int64_t workspace<Isa::ALEXKERN_ISA>(std::int64_t C, std::int64_t stride_c, std::int64_t size) {
    return Bundle(C, stride_c, size).size();
}

template <>
void run<Isa::ALEXKERN_ISA>(const Call& call) {
    const Bundle bundle(call.C, call.stride_c, call.size);
    const bool channels = bundle.step == 1;
    if (call.grad) {
        ran(channels ? "local_response_norm backward, NHWC, " ALEXKERN_ISA_NAME
                     : "local_response_norm backward, NCHW, " ALEXKERN_ISA_NAME);
    } else {
        ran(channels ? "local_response_norm forward, NHWC, " ALEXKERN_ISA_NAME
                     : "local_response_norm forward, NCHW, " ALEXKERN_ISA_NAME);
    }
    on_numbers(call.bfloat16, [&](auto number) {
        using T = decltype(number);
        call.beta == 0.75f ? normalise_all<true, T>(call, bundle) : normalise_all<false, T>(call, bundle);
    });
}

}  // namespace alexkern::local_response_norm
