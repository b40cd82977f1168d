// The convolution, and the data gradient, as a product: rows are output pixels, columns filters, and the depth runs
// over taps and channels. Rows of A are gathered from the input, copy by copy, zeros where a tap lies outside.
#include <algorithm>

#include "geometry.cuh"
#include "store.cuh"
#include "traits.cuh"

namespace alexkern::conv2d_relu {
namespace {

template <typename Arithmetic, typename Shape, int kCopyBytes>
struct Convolve {
    using T = typename Arithmetic::Element;
    using TileA = mma::Tile<T, mma::Along::depth, Shape::kBlockM>;
    using TileB = mma::Tile<T, mma::Along::depth, Shape::kBlockN>;
    static constexpr int kBlockM = Shape::kBlockM, kBlockN = Shape::kBlockN, kBlockK = TileA::kDepth;
    static constexpr int kThreads = Shape::kThreads;
    static constexpr int kCopy = kCopyBytes / sizeof(T);                 // values
    static constexpr int kCopiesPerRow = mma::kDepthBytes / kCopyBytes;  // of a tile
    static constexpr int kRowsPerPass = kThreads / kCopiesPerRow;        // all threads copy once
    static constexpr int kPassesA = kBlockM / kRowsPerPass, kPassesB = kBlockN / kRowsPerPass;
    static constexpr int kStageBytes = Shape::kStages * (TileA::kBytes + TileB::kBytes);
    static constexpr int kStoreBytes = StagedTile<T, kBlockM, kBlockN>::kBytes;
    static constexpr int kTablesAt = kStageBytes > kStoreBytes ? kStageBytes : kStoreBytes;
    static constexpr int kSharedBytes =
        kTablesAt + kBlockM * static_cast<int>(sizeof(Pixel)) + kBlockN * static_cast<int>(sizeof(float));
};

template <typename Arithmetic, typename Shape, int kCopyBytes>
__global__ void __launch_bounds__(Shape::kThreads) convolve_kernel(const __grid_constant__ ConvolveParams p) {
    using Kernel = Convolve<Arithmetic, Shape, kCopyBytes>;
    using T = typename Kernel::T;
    const Image& output = p.output;
    // The grid, innermost first: columns, so that neighbours share the rows they gather; rows; splits; phases; groups.
    const int tiles_n = divide_up(p.K, Kernel::kBlockN);
    const int phases_h = phases_of(p.vertical, p.transposed), phases_w = phases_of(p.horizontal, p.transposed);
    const int most_rows_h = divide_up(output.H, phases_h), most_rows_w = divide_up(output.W, phases_w);
    const unsigned tiles_m = static_cast<unsigned>(
        divide_up<std::int64_t>(static_cast<std::int64_t>(output.N) * most_rows_h * most_rows_w, Kernel::kBlockM));
    unsigned block = blockIdx.x;
    const int first_n = static_cast<int>(block % tiles_n) * Kernel::kBlockN;
    block /= tiles_n;
    const std::int64_t first_m = static_cast<std::int64_t>(block % tiles_m) * Kernel::kBlockM;
    block /= tiles_m;
    const int split = static_cast<int>(block % p.choice.splits);
    block /= p.choice.splits;
    const Taps horizontal = taps_of(p.horizontal, p.transposed, static_cast<int>(block % phases_w), output.W, p.S);
    block /= phases_w;
    const Taps vertical = taps_of(p.vertical, p.transposed, static_cast<int>(block % phases_h), output.H, p.R);
    const int group = static_cast<int>(block / phases_h);

    const int pixels = vertical.outputs * horizontal.outputs;  // of an image
    const std::int64_t rows = static_cast<std::int64_t>(output.N) * pixels;
    if (first_m >= rows) return;  // phases differ in size

    unsigned char* shared = ptx::dynamic_shared_memory<unsigned char>();
    Pixel* table = reinterpret_cast<Pixel*>(shared + Kernel::kTablesAt);                                   // (kBlockM)
    float* bias = reinterpret_cast<float*>(shared + Kernel::kTablesAt + Kernel::kBlockM * sizeof(Pixel));  // (kBlockN)
    for (int row = threadIdx.x; row < Kernel::kBlockM; row += Kernel::kThreads) {
        const std::int64_t m = first_m + row;
        const int n = static_cast<int>(m / pixels), pixel = static_cast<int>(m % pixels);
        table[row] = {m < rows ? n : -1, pixel / horizontal.outputs, pixel % horizontal.outputs};
    }
    for (int n = threadIdx.x; n < Kernel::kBlockN; n += Kernel::kThreads) {
        const bool inside = p.bias != nullptr && first_n + n < p.K;
        bias[n] = inside ? ptx::to_float(static_cast<const T*>(p.bias)[group * p.K + first_n + n]) : 0.0f;
    }
    __syncthreads();

    // This thread's copies: the same columns of some rows of A and of B. Places are counted in copies from the tile's
    // first image on, which takes 32 bits.
    const int column = threadIdx.x % Kernel::kCopiesPerRow, first_row = threadIdx.x / Kernel::kCopiesPerRow;
    const int pixel_stride = p.groups * p.C, pixel_copies = pixel_stride / Kernel::kCopy;
    const int first_image = table[0].n;
    const T* const images = static_cast<const T*>(p.input) +
                            static_cast<std::int64_t>(first_image) * p.H * p.W * pixel_stride + group * p.C;
    int source_h[Kernel::kPassesA], source_w[Kernel::kPassesA];
    int source_copy[Kernel::kPassesA];  // at the first tap and channel, be it inside the image or not
#pragma unroll
    for (int pass = 0; pass < Kernel::kPassesA; ++pass) {
        const Pixel pixel = table[first_row + pass * Kernel::kRowsPerPass];
        source_h[pass] = vertical.first_source + pixel.h * vertical.source_per_output;
        source_w[pass] = horizontal.first_source + pixel.w * horizontal.source_per_output;
        source_copy[pass] = (((pixel.n - first_image) * p.H + source_h[pass]) * p.W + source_w[pass]) * pixel_copies;
        if (pixel.n < 0) source_h[pass] = -0x40000000;  // outside, whatever the tap
    }
    const T* filters = static_cast<const T*>(p.weight) +
                       static_cast<std::int64_t>(group * p.K + first_n + first_row) * p.R * p.S * p.C;
    const std::int64_t filters_per_pass = static_cast<std::int64_t>(Kernel::kRowsPerPass) * p.R * p.S * p.C;

    const int steps_in_all = divide_up(vertical.count * horizontal.count * p.C, Kernel::kBlockK);
    const auto first_step_of = [&](int s) {
        return static_cast<int>(static_cast<std::int64_t>(steps_in_all) * s / p.choice.splits);
    };
    const int first_step = first_step_of(split), steps = first_step_of(split + 1) - first_step;
    // Depth as (tap row, tap column, channel), and a step of it as the same digits: advancing is an addition.
    const int taps_w = horizontal.count > 0 ? horizontal.count : 1;
    const int first_depth = first_step * Kernel::kBlockK + column * Kernel::kCopy;
    int c = first_depth % p.C, tap_w = first_depth / p.C % taps_w, tap_h = first_depth / p.C / taps_w;
    const int advance_c = Kernel::kBlockK % p.C;
    const int advance_w = Kernel::kBlockK / p.C % taps_w, advance_h = Kernel::kBlockK / p.C / taps_w;

    const int copy_column = column * kCopyBytes / mma::kChunkBytes;
    const int copy_offset = column * kCopyBytes % mma::kChunkBytes;
    mma::Sums<Shape::kWarpRows, Shape::kWarpColumns> sums;
    mma::multiply<Arithmetic, typename Kernel::TileA, typename Kernel::TileB, Shape>(
        sums, steps, [&](int, std::uint32_t a_tile, std::uint32_t b_tile) {
            const bool inside = tap_h < vertical.count;
            const int delta_h = tap_h * vertical.source_per_tap, delta_w = tap_w * horizontal.source_per_tap;
            const int delta = (delta_h * p.W + delta_w) * pixel_copies + c / Kernel::kCopy;
#pragma unroll
            for (int pass = 0; pass < Kernel::kPassesA; ++pass) {
                const int h = source_h[pass] + delta_h, w = source_w[pass] + delta_w;
                const bool there = inside && static_cast<unsigned>(h) < static_cast<unsigned>(p.H) &&
                                   static_cast<unsigned>(w) < static_cast<unsigned>(p.W);
                const int row = first_row + pass * Kernel::kRowsPerPass;
                const std::int64_t place = static_cast<std::int64_t>(source_copy[pass] + delta) * Kernel::kCopy;
                copy<kCopyBytes>(a_tile + Kernel::TileA::chunk(row, copy_column) + copy_offset,
                                 images + (there ? place : 0), there);
            }
            const int tap = (vertical.first_tap + tap_h * vertical.tap_step) * p.S + horizontal.first_tap +
                            tap_w * horizontal.tap_step;
#pragma unroll
            for (int pass = 0; pass < Kernel::kPassesB; ++pass) {
                const int row = first_row + pass * Kernel::kRowsPerPass;
                const bool there = inside && first_n + row < p.K;
                const T* source = filters + pass * filters_per_pass + tap * p.C + c;
                copy<kCopyBytes>(b_tile + Kernel::TileB::chunk(row, copy_column) + copy_offset,
                                 there ? source : static_cast<const T*>(p.weight), there);
            }
            c += advance_c;
            tap_w += advance_w;
            tap_h += advance_h;
            if (c >= p.C) {
                c -= p.C;
                ++tap_w;
            }
            if (tap_w >= taps_w) {
                tap_w -= taps_w;
                ++tap_h;
            }
        });

    const auto placed = [&](int row) {
        const Pixel pixel = table[row];
        return Pixel{pixel.n, vertical.first_output + pixel.h * vertical.output_step,
                     horizontal.first_output + pixel.w * horizontal.output_step};
    };
    if (p.partials != nullptr) {
        mma::for_each_pair<Shape>(sums, [&](int m, int n, float first, float second) {
            const Pixel pixel = placed(m);
            if (pixel.n < 0 || first_n + n >= p.padded_K) return;
            std::int64_t at = static_cast<std::int64_t>(split) * output.N + pixel.n;
            at = (at * output.H + pixel.h) * output.W + pixel.w;
            at = (at * p.groups + group) * p.padded_K + first_n + n;
            *reinterpret_cast<float2*>(p.partials + at) = make_float2(first, second);
        });
        return;
    }
    StagedTile<T, Kernel::kBlockM, Kernel::kBlockN> staged{shared};
    mma::for_each_pair<Shape>(sums, [&](int m, int n, float first, float second) {
        staged.put(m, n, finished(first + bias[n], p.relu), finished(second + bias[n + 1], p.relu));
    });
    __syncthreads();
    staged.template store<Kernel::kThreads>(output, group * p.K + first_n, min(p.K - first_n, Kernel::kBlockN), placed);
}

}  // namespace

void convolve(Arithmetic arithmetic, const ConvolveParams& params, Stream stream) {
    const Image& output = params.output;
    const int phases_h = phases_of(params.vertical, params.transposed);
    const int phases_w = phases_of(params.horizontal, params.transposed);
    const std::int64_t rows =
        static_cast<std::int64_t>(output.N) * divide_up(output.H, phases_h) * divide_up(output.W, phases_w);
    if (rows == 0) return;
    with_instantiation(arithmetic, params.choice.tile, params.C, [&](auto arithmetic_tag, auto shape, auto copy_bytes) {
        using Shape = decltype(shape);
        using Kernel = Convolve<decltype(arithmetic_tag), Shape, decltype(copy_bytes)::value>;
        // The images that one tile's rows may come from are addressed from the first of them, in 32 bits.
        const std::int64_t pixels = std::int64_t{output.H / phases_h} * (output.W / phases_w);
        const std::int64_t images =
            std::min<std::int64_t>(output.N, Shape::kBlockM / std::max<std::int64_t>(pixels, 1) + 2);
        if (images * params.H * params.W > 0x7fffffff / (params.groups * params.C / Kernel::kCopy)) {
            throw std::runtime_error("conv2d_relu: an image is too large: " + std::to_string(params.H) + " x " +
                                     std::to_string(params.W) + " pixels of " +
                                     std::to_string(params.groups * params.C) + " channels, padded");
        }
        const std::int64_t blocks = divide_up<std::int64_t>(rows, Shape::kBlockM) *
                                    divide_up(params.K, Shape::kBlockN) * params.choice.splits * phases_h * phases_w *
                                    params.groups;
        ptx::launch(params.transposed ? "conv2d_relu's data gradient" : "conv2d_relu",
                    convolve_kernel<decltype(arithmetic_tag), Shape, decltype(copy_bytes)::value>,
                    grid_of(blocks, "the convolution"), Shape::kThreads, Kernel::kSharedBytes, stream, params);
    });
}

}  // namespace alexkern::conv2d_relu
