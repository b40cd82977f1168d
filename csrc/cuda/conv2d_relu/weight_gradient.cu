// The weight's gradient as a product: GEMM_M is filters, GEMM_N taps and channels, and GEMM_K the output's pixels. Both
// operands come with GEMM_K down their tiles, a pixel a row. Every split leaves its sums in fp32. Its rung is
// examples/ladder/4_tensor_core.cu; it adds fragments that are turned on the way, and splits.
#include "store.cuh"
#include "traits.cuh"

namespace alexkern::conv2d_relu {
namespace {

template <typename Arithmetic, typename Shape, int kCopyBytes>
struct WeightGradient {
    using T = typename Arithmetic::Element;
    using LayoutA = mma::Layout<T, mma::Along::extent, Shape::kBlockM>;
    using LayoutB = mma::Layout<T, mma::Along::extent, Shape::kBlockN>;
    static constexpr int kBlockM = Shape::kBlockM, kBlockN = Shape::kBlockN, kBlockK = LayoutA::kBlockK;
    static constexpr int kThreads = Shape::kThreads;
    static constexpr int kCopyA = mma::kVectorBytes / sizeof(T), kCopyB = kCopyBytes / sizeof(T);  // values
    static constexpr int kCopiesA = kBlockM / kCopyA, kCopiesB = kBlockN / kCopyB;                 // of a row
    static constexpr int kRowsPerPassA = kThreads / kCopiesA, kRowsPerPassB = kThreads / kCopiesB;
    static constexpr int kPassesA = kBlockK / kRowsPerPassA, kPassesB = kBlockK / kRowsPerPassB;
    static constexpr int kSharedBytes = Shape::kStages * (LayoutA::kBytes + LayoutB::kBytes);
    // Blocks of a multiprocessor of 8.6, 8.9 and 12.0: aiming at more, ptxas spills.
    static constexpr int kBlocks = 100 * 1024 / (kSharedBytes + 1024);
};

template <typename Arithmetic, typename Shape, int kCopyBytes>
__global__ void __launch_bounds__(Shape::kThreads, WeightGradient<Arithmetic, Shape, kCopyBytes>::kBlocks)
    weight_gradient_kernel(const __grid_constant__ WeightGradientParams p) {
    using Kernel = WeightGradient<Arithmetic, Shape, kCopyBytes>;
    using T = typename Kernel::T;
    const int gemm_n = p.R * p.S * p.C;
    // The grid, innermost first: taps and channels, filters, splits, groups.
    const int tiles_m = divide_up(p.K, Kernel::kBlockM), tiles_n = divide_up(gemm_n, Kernel::kBlockN);
    unsigned block = blockIdx.x;
    const int first_n = static_cast<int>(block % tiles_n) * Kernel::kBlockN;
    block /= tiles_n;
    const int first_m = static_cast<int>(block % tiles_m) * Kernel::kBlockM;
    block /= tiles_m;
    const int split = static_cast<int>(block % p.choice.splits), group = static_cast<int>(block / p.choice.splits);

    const std::int64_t pixels = static_cast<std::int64_t>(p.N) * p.P * p.Q;
    const std::int64_t steps_in_all = divide_up<std::int64_t>(pixels, Kernel::kBlockK);
    const std::int64_t first_step = steps_in_all * split / p.choice.splits;
    const int steps = static_cast<int>(steps_in_all * (split + 1) / p.choice.splits - first_step);
    const std::int64_t first_pixel = first_step * Kernel::kBlockK;

    // A's copies: the same filters of some rows, each row a pixel of the gradient.
    const int copy_a = threadIdx.x % Kernel::kCopiesA, first_row_a = threadIdx.x / Kernel::kCopiesA;
    const int filter = first_m + copy_a * Kernel::kCopyA;
    const std::int64_t grad_stride = static_cast<std::int64_t>(p.groups) * p.padded_K;  // of a pixel
    std::int64_t pixel_a = first_pixel + first_row_a;

    // B's copies: the same tap and channels of some rows, each row a pixel that moves on with every step.
    const int copy_b = threadIdx.x % Kernel::kCopiesB, first_row_b = threadIdx.x / Kernel::kCopiesB;
    const int n_b = first_n + copy_b * Kernel::kCopyB;
    const int c = n_b % p.C, tap = n_b / p.C;
    const int tap_h = tap / p.S * p.vertical.dilation - p.vertical.padding;
    const int tap_w = tap % p.S * p.horizontal.dilation - p.horizontal.padding;
    const std::int64_t input_stride = static_cast<std::int64_t>(p.groups) * p.C;  // of a pixel
    const T* input = static_cast<const T*>(p.input) + group * p.C + c;
    const std::int64_t first_line = first_pixel / p.Q;
    const int first_n_image = static_cast<int>(first_line / p.P);
    const auto first_p = static_cast<unsigned>(first_line % p.P), first_q = static_cast<unsigned>(first_pixel % p.Q);
    Digits place[Kernel::kPassesB];  // q, p, n
#pragma unroll
    for (int pass = 0; pass < Kernel::kPassesB; ++pass) {
        const unsigned q = first_q + first_row_b + pass * Kernel::kRowsPerPassB;
        const unsigned line = first_p + q / p.Q;
        place[pass] = {static_cast<int>(q % p.Q), static_cast<int>(line % p.P),
                       first_n_image + static_cast<int>(line / p.P)};
    }
    const Digits step = Digits::of(Kernel::kBlockK, p.Q, p.P);

    const int vector_b = copy_b * kCopyBytes / mma::kVectorBytes, offset_b = copy_b * kCopyBytes % mma::kVectorBytes;
    mma::Sums<Shape::kWarpM, Shape::kWarpN> sums;
    mma::multiply<Arithmetic, typename Kernel::LayoutA, typename Kernel::LayoutB, Shape>(
        sums, steps, [&](int, std::uint32_t a_tile, std::uint32_t b_tile) {
#pragma unroll
            for (int pass = 0; pass < Kernel::kPassesA; ++pass) {
                const int row = first_row_a + pass * Kernel::kRowsPerPassA;
                const std::int64_t pixel = pixel_a + pass * Kernel::kRowsPerPassA;
                const bool there = pixel < pixels && filter < p.padded_K;
                const T* source =
                    static_cast<const T*>(p.grad) + (there ? pixel * grad_stride + group * p.padded_K + filter : 0);
                copy<mma::kVectorBytes>(a_tile + Kernel::LayoutA::vector(row, copy_a), source, there);
            }
            pixel_a += Kernel::kBlockK;
#pragma unroll
            for (int pass = 0; pass < Kernel::kPassesB; ++pass) {
                const int row = first_row_b + pass * Kernel::kRowsPerPassB;
                const int h = place[pass].middle * p.vertical.stride + tap_h;
                const int w = place[pass].inner * p.horizontal.stride + tap_w;
                const bool there = n_b < gemm_n && place[pass].outer < p.N &&
                                   static_cast<unsigned>(h) < static_cast<unsigned>(p.H) &&
                                   static_cast<unsigned>(w) < static_cast<unsigned>(p.W);
                const std::int64_t line = static_cast<std::int64_t>(place[pass].outer) * p.H + h;
                const T* source = there ? input + (line * p.W + w) * input_stride : static_cast<const T*>(p.input);
                copy<kCopyBytes>(b_tile + Kernel::LayoutB::vector(row, vector_b) + offset_b, source, there);
                place[pass].advance(step, p.Q, p.P);
            }
        });

    mma::for_each_pair<Shape>(sums, [&](int m, int n, float first, float second) {
        if (first_m + m >= p.K || first_n + n >= gemm_n) return;
        const std::int64_t row = (static_cast<std::int64_t>(split) * p.groups + group) * p.K + first_m + m;
        *reinterpret_cast<float2*>(p.partials + row * gemm_n + first_n + n) = make_float2(first, second);
    });
}

}  // namespace

void weight_gradient(Arithmetic arithmetic, const WeightGradientParams& params, Stream stream) {
    with_instantiation(arithmetic, params.choice.tile, params.C, [&](auto arithmetic_tag, auto shape, auto copy_bytes) {
        using Shape = decltype(shape);
        using Kernel = WeightGradient<decltype(arithmetic_tag), Shape, decltype(copy_bytes)::value>;
        const std::int64_t blocks = static_cast<std::int64_t>(divide_up(params.K, Shape::kBlockM)) *
                                    divide_up(params.R * params.S * params.C, Shape::kBlockN) * params.choice.splits *
                                    params.groups;
        ptx::launch("conv2d_relu's weight gradient",
                    weight_gradient_kernel<decltype(arithmetic_tag), Shape, decltype(copy_bytes)::value>,
                    grid_of(blocks, "the weight gradient"), Shape::kThreads, Kernel::kSharedBytes, stream, params);
    });
}

}  // namespace alexkern::conv2d_relu
