// local_response_norm across channels: y = x * w with w = e**-beta, and
//     e[c] = k + alpha * sum of x[i]**2 over i from c - size / 2 to c + (size - 1) / 2, those that exist.
// Gradient, written (=) once: dx[c] = dy[c] * w[c] - 2 * alpha * beta * x[c] * sum of dy[i] * y[i] / e[i] over the
// channels i whose window c stands in. Sums run from the lowest channel up, in fp32; one rounding at the end.
//
// A thread owns a run of neighbouring channels of one pixel and keeps them in registers, with the channels around that
// its windows reach. Channels innermost: three vectors (the run before, the run, the run after), of which the compiler
// loads 128 bits of the middle one and what the windows reach of the outer two, mostly from L1; one 128-bit store.
// Channels apart, or no whole vectors: one load a channel, consecutive pixels in a warp. Backward
// computes e again on the neighbourhood instead of reading it.
#include "../../plain.h"
#include "../divider.h"
#include "../elements.cuh"
#include "../elements.h"
#include "../ptx/launch.cuh"

namespace alexkern::local_response_norm {
namespace {

constexpr int kThreads = 256;

// Every tensor is (N, C, L): L pixels of one stride. All have the strides below, in elements.
struct Params {
    const void* input;
    const void* grad;  // null for the output
    void* result;      // the output, or the input's gradient
    float* shared;     // dy * y / e: a workspace of backward, where needs_workspace asks for one, else null
    std::int64_t N, L;
    int C;
    std::int64_t stride_n, stride_c, stride_l;
    int size;
    float alpha, beta, k;  // alpha already divided by size
};

bool in_registers(int size, float beta) { return (size == 5 || size == 3) && beta == 0.75f; }

// kInner: channels lie innermost, and a run is a vector.
template <typename T_, int kSize_, bool kInner_>
struct Traits {
    using T = T_;
    static constexpr int kSize = kSize_;
    static constexpr bool kInner = kInner_;
    static constexpr int kRun = kInner ? kVector<T> : 8;     // channels of a thread
    static constexpr int kHalo = kInner ? kRun : kSize - 1;  // channels kept on either side
    static constexpr int kKept = kRun + 2 * kHalo;
    static constexpr int kBefore = kSize / 2, kAfter = (kSize - 1) / 2;
    static_assert(kSize - 1 <= kHalo, "the gradient of a run takes size - 1 channels on either side");
};

struct Order {
    std::int64_t count;  // runs
    Divider inner, outer;

    Order(const Params& params, int runs, bool channels_inner)
        : count(params.N * params.L * runs),
          inner(channels_inner ? runs : params.L),
          outer(channels_inner ? params.L : runs) {}

    dim3 grid() const { return dim3(static_cast<unsigned>((count + kThreads - 1) / kThreads)); }
};

struct ThreadRun {
    std::int64_t offset;  // of the run's first element
    int channel;          // its channel
    bool inside;
};

__device__ __forceinline__ ThreadRun run_of_thread(const Params& p, const Order& order, bool channels_inner, int run) {
    std::int64_t index = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
    const bool inside = index < order.count;
    const std::int64_t first = split_off(index, order.inner), second = split_off(index, order.outer);
    const int channel = static_cast<int>(channels_inner ? first : second) * run;
    const std::int64_t pixel = channels_inner ? second : first;
    return {index * p.stride_n + channel * p.stride_c + pixel * p.stride_l, channel, inside};
}

// Channels channel - kHalo to channel + kRun + kHalo - 1; 0 where there is none.
template <typename Of>
__device__ __forceinline__ void load_neighbourhood(const typename Of::T* run, const Params& p, int channel,
                                                   float (&values)[Of::kKept]) {
    if constexpr (Of::kInner) {
#pragma unroll
        for (int side = 0; side < 3; ++side) {
            const int first = channel + (side - 1) * Of::kRun;
            float vector[Of::kRun] = {};
            if (first >= 0 && first < p.C) load_vector(run + (side - 1) * Of::kRun, vector);
#pragma unroll
            for (int i = 0; i < Of::kRun; ++i) values[side * Of::kRun + i] = vector[i];
        }
    } else {
#pragma unroll
        for (int i = 0; i < Of::kKept; ++i) {
            const int at = channel + i - Of::kHalo;
            values[i] = at >= 0 && at < p.C ? ptx::to_float(run[(i - Of::kHalo) * p.stride_c]) : 0.0f;
        }
    }
}

template <typename Of>
__device__ __forceinline__ void store_run(typename Of::T* run, const Params& p, int channel,
                                          const float (&values)[Of::kRun]) {
    if constexpr (Of::kInner) {
        store_vector(run, values);
    } else {
#pragma unroll
        for (int i = 0; i < Of::kRun; ++i) {
            if (channel + i < p.C) run[i * p.stride_c] = ptx::from_float<typename Of::T>(values[i]);
        }
    }
}

template <typename Of>
__device__ __forceinline__ float energy(const float (&x)[Of::kKept], int at, const Params& p) {
    float sum = 0.0f;
#pragma unroll
    for (int i = -Of::kBefore; i <= Of::kAfter; ++i) sum += x[at + i] * x[at + i];
    return sum * p.alpha + p.k;
}

// The run kernels serve beta = 3/4, the paper's and torch's default, by two square roots. NaN where e < 0, as pow is.
__device__ __forceinline__ float three_quarters_power(float root) { return root * sqrtf(root); }

template <typename Of>
__global__ void __launch_bounds__(kThreads)
    forward_kernel(const __grid_constant__ Params p, const __grid_constant__ Order order) {
    using T = typename Of::T;
    const ThreadRun at = run_of_thread(p, order, Of::kInner, Of::kRun);
    if (!at.inside) return;
    float x[Of::kKept], y[Of::kRun];
    load_neighbourhood<Of>(static_cast<const T*>(p.input) + at.offset, p, at.channel, x);
#pragma unroll
    for (int i = 0; i < Of::kRun; ++i) {
        y[i] = x[Of::kHalo + i] * three_quarters_power(rsqrtf(energy<Of>(x, Of::kHalo + i, p)));
    }
    store_run<Of>(static_cast<T*>(p.result) + at.offset, p, at.channel, y);
}

template <typename Of>
__global__ void __launch_bounds__(kThreads)
    backward_kernel(const __grid_constant__ Params p, const __grid_constant__ Order order) {
    using T = typename Of::T;
    const ThreadRun at = run_of_thread(p, order, Of::kInner, Of::kRun);
    if (!at.inside) return;
    float x[Of::kKept], dy[Of::kKept];
    load_neighbourhood<Of>(static_cast<const T*>(p.input) + at.offset, p, at.channel, x);
    load_neighbourhood<Of>(static_cast<const T*>(p.grad) + at.offset, p, at.channel, dy);
    // Of the channels channel - kAfter to channel + kRun + kBefore - 1.
    float scaled[Of::kRun + Of::kSize - 1], shared[Of::kRun + Of::kSize - 1];
#pragma unroll
    for (int i = 0; i < Of::kRun + Of::kSize - 1; ++i) {
        const int from = Of::kHalo - Of::kAfter + i, c = at.channel - Of::kAfter + i;
        const float root = rsqrtf(energy<Of>(x, from, p));
        scaled[i] = dy[from] * three_quarters_power(root);
        // A channel that does not exist gives nothing, also where its window's energy is 0 or infinite.
        shared[i] = c >= 0 && c < p.C ? scaled[i] * x[from] * (root * root) : 0.0f;
    }
    float dx[Of::kRun];
#pragma unroll
    for (int i = 0; i < Of::kRun; ++i) {
        float sum = 0.0f;
#pragma unroll
        for (int j = 0; j < Of::kSize; ++j) sum += shared[i + j];
        dx[i] = scaled[Of::kAfter + i] - 2.0f * p.alpha * p.beta * x[Of::kHalo + i] * sum;
    }
    store_run<Of>(static_cast<T*>(p.result) + at.offset, p, at.channel, dx);
}

// Any size and exponent: a thread has one element and walks along its window.
enum class Stage { output, shared, gradient };

template <typename T, Stage kStage>
__global__ void __launch_bounds__(kThreads)
    element_kernel(const __grid_constant__ Params p, const __grid_constant__ Order order, bool channels_inner) {
    const ThreadRun at = run_of_thread(p, order, channels_inner, 1);
    if (!at.inside) return;
    const int before = p.size / 2, after = (p.size - 1) / 2;
    const T* input = static_cast<const T*>(p.input) + at.offset;
    float squares = 0.0f;
    for (int c = max(at.channel - before, 0); c <= min(at.channel + after, p.C - 1); ++c) {
        const float value = ptx::to_float(input[(c - at.channel) * p.stride_c]);
        squares += value * value;
    }
    const float e = squares * p.alpha + p.k, x = ptx::to_float(*input), factor = powf(e, -p.beta);
    T* result = static_cast<T*>(p.result) + at.offset;
    if constexpr (kStage == Stage::output) {
        *result = ptx::from_float<T>(x * factor);
        return;
    }
    const float scaled = ptx::to_float(static_cast<const T*>(p.grad)[at.offset]) * factor;
    float* shared = p.shared + at.offset;
    if constexpr (kStage == Stage::shared) {
        *shared = scaled * x / e;
        return;
    }
    float sum = 0.0f;
    for (int c = max(at.channel - after, 0); c <= min(at.channel + before, p.C - 1); ++c) {
        sum += shared[(c - at.channel) * p.stride_c];
    }
    *result = ptx::from_float<T>(scaled - 2.0f * p.alpha * p.beta * x * sum);
}

template <typename Of>
void launch_runs(const Params& params, Stream stream) {
    const Order order(params, (params.C + Of::kRun - 1) / Of::kRun, Of::kInner);
    const bool backward = params.grad != nullptr;
    ptx::launch(backward ? "local_response_norm_backward" : "local_response_norm_forward",
                backward ? backward_kernel<Of> : forward_kernel<Of>, order.grid(), dim3(kThreads), 0, stream, params,
                order);
}

template <typename T, int kSize>
void launch_runs_of(const Params& params, Stream stream) {
    constexpr int kWidth = kVector<T>;
    const bool inner = params.stride_c == 1 && params.C % kWidth == 0 && params.stride_n % kWidth == 0 &&
                       params.stride_l % kWidth == 0 && is_aligned(params.input) && is_aligned(params.grad) &&
                       is_aligned(params.result);
    inner ? launch_runs<Traits<T, kSize, true>>(params, stream) : launch_runs<Traits<T, kSize, false>>(params, stream);
}

template <typename T, Stage kStage>
void launch_elements(const char* name, const Params& params, Stream stream) {
    const bool channels_inner = params.stride_c == 1;
    const Order order(params, params.C, channels_inner);
    ptx::launch(name, element_kernel<T, kStage>, order.grid(), dim3(kThreads), 0, stream, params, order,
                channels_inner);
}

template <typename T>
void launch(const Params& params, Stream stream) {
    if (in_registers(params.size, params.beta)) {
        params.size == 5 ? launch_runs_of<T, 5>(params, stream) : launch_runs_of<T, 3>(params, stream);
    } else if (params.grad == nullptr) {
        launch_elements<T, Stage::output>("local_response_norm_forward", params, stream);
    } else {
        launch_elements<T, Stage::shared>("local_response_norm_shared", params, stream);
        launch_elements<T, Stage::gradient>("local_response_norm_backward", params, stream);
    }
}

}  // namespace

// Whether backward takes two passes with the workspace between them: for sizes and exponents that no kernel keeps in
// registers.
bool needs_workspace(int size, float beta) { return !in_registers(size, beta); }

// The output, or the gradient where there is a `grad`.
void run(int element, Address input, Address grad, Address result, Address shared, std::int64_t N, int C,
         std::int64_t L, const Tuple<std::int64_t, 3>& strides, int size, float alpha, float beta, float k,
         Address stream) {
    const Params params{pointer(input),
                        pointer(grad),
                        pointer(result),
                        pointer<float>(shared),
                        N,
                        L,
                        C,
                        strides[0],
                        strides[1],
                        strides[2],
                        size,
                        alpha,
                        beta,
                        k};
    with_type(static_cast<Element>(element),
              [&](auto type) { launch<decltype(type)>(params, pointer<CUstream_st>(stream)); });
}

}  // namespace alexkern::local_response_norm
