// y = max_pool2d(relu(conv2d(x, w) + b), 3, 2) in one kernel, and the place of every maximum.
//
// A block: up to kBlockM pixels of the convolution's output, as whole rows of 2 * windows + 1 columns, x kBlockN
// filters. It walks down one image, `rows` rows at a time:
//
//     tile   (rows, columns, kBlockN)   the product, with bias and ReLU, rounded; in shared memory
//     carry  (2, columns, kBlockN)      the two rows above it, row h in place h % 2
//     y      (windows below, windows)   the windows whose last row is in the tile
//
// What is computed twice is one row between segments and one column between neighbours; what is computed in vain, the
// places that whole rows leave over. Windows compare what was rounded, and find their rows in shared memory in any
// case, so the tile goes there as an unfused one does on its way out: no rule about who holds which value.
//
// Its rung is examples/ladder/5_fused.cu; it adds segments, whole rows of any width, and what conv2d_relu's tile has.
#include "../conv2d_relu/convolve.cuh"
#include "../max_pool2d/best.cuh"
#include "../max_pool2d/pixel.cuh"
#include "conv2d_relu_max_pool2d.h"

namespace alexkern::conv2d_relu_max_pool2d {
namespace {

using conv2d_relu::Pixel;
using conv2d_relu::Taps;
using conv2d_relu::taps_of;
using max_pool2d::Best;

// A block's rows and columns of the pooled output.
struct Segment {
    int n, first_p, end_p, first_q;
};

template <typename Arithmetic, typename Shape, int kCopyBytes>
struct Fused : conv2d_relu::ConvolveTile<Arithmetic, Shape, kCopyBytes> {
    using Tile = conv2d_relu::ConvolveTile<Arithmetic, Shape, kCopyBytes>;
    using T = typename Tile::T;
    static constexpr int kPitch = Tile::Out::kPitch, kCarryAt = Tile::kSharedBytes;
    static_assert(kCarryAt % 16 == 0, "values are read in vectors");

    static int shared_bytes(int columns) { return kCarryAt + 2 * columns * kPitch; }

    // The convolution's output at row h, column 0 of the tile, whose first row is number first_h.
    static __device__ __forceinline__ T* row(unsigned char* shared, int h, int first_h, int columns) {
        const int at = h < first_h ? kCarryAt + (h & 1) * columns * kPitch : (h - first_h) * columns * kPitch;
        return reinterpret_cast<T*>(shared + at);
    }

    // All threads: the windows that end in the tile, kWidth channels of one at a time.
    template <int kWidth>
    static __device__ __forceinline__ void pool(unsigned char* shared, const ForwardParams& p, const Segment& segment,
                                                int first_h, int rows, int columns, int first_channel, int channels) {
        constexpr int kStep = kPitch / static_cast<int>(sizeof(T)), kGroups = Tile::kBlockN / kWidth;
        const conv2d_relu::Image& output = p.output;
        const int first_p = max(segment.first_p, (first_h + 1) / 2 - 1);
        const int end_p = min(segment.end_p, (first_h + rows - 1) / 2), windows = p.plan.windows;
        const bool channels_inner = output.stride_C == 1;
        for (int i = threadIdx.x; i < (end_p - first_p) * windows * kGroups; i += Tile::kThreads) {
            // Neighbouring threads write to neighbouring places, in either format.
            const int window = channels_inner ? i / kGroups : i % ((end_p - first_p) * windows);
            const int channel = kWidth * (channels_inner ? i % kGroups : i / ((end_p - first_p) * windows));
            const int below = first_p + window / windows, right = window % windows;
            if (channel >= channels || segment.first_q + right >= output.W) continue;
            const auto best_of_row = [&](int r) {
                const T* pixels = row(shared, 2 * below + r, first_h, columns) + 2 * right * kStep + channel;
                return max_pool2d::best_of_three<kWidth>(pixels, kStep);
            };
            Best<kWidth> best = best_of_row(0);
            max_pool2d::join_rows(best, best_of_row(1), best_of_row(2));
            const std::int64_t at = segment.n * output.stride_N + (first_channel + channel) * output.stride_C +
                                    below * output.stride_H + (segment.first_q + right) * output.stride_W;
            store_vector(static_cast<T*>(output.data) + at, best.value);
            if (p.offsets != nullptr) {
                max_pool2d::clip<std::uint8_t>(best);
                max_pool2d::store_offsets(static_cast<std::uint8_t*>(p.offsets) + at, best.place);
            }
        }
    }

    // All threads: the tile's last two rows, or its only one, to where the next tile looks for the rows above it.
    static __device__ __forceinline__ void carry(unsigned char* shared, int first_h, int rows, int columns) {
        constexpr int kPerPixel = Tile::kBlockN * static_cast<int>(sizeof(T)) / 16;
        const int kept = min(rows, 2), per_row = columns * kPerPixel;
        for (int i = threadIdx.x; i < kept * per_row; i += Tile::kThreads) {
            const int h = first_h + rows - kept + i / per_row;
            const int at = i % per_row / kPerPixel * kPitch + i % kPerPixel * 16;
            *reinterpret_cast<uint4*>(shared + kCarryAt + (h & 1) * columns * kPitch + at) =
                *reinterpret_cast<const uint4*>(shared + (h - first_h) * columns * kPitch + at);
        }
    }
};

template <typename Arithmetic, typename Shape, int kCopyBytes>
__global__ void __launch_bounds__(Shape::kThreads)
    forward_kernel(const __grid_constant__ ForwardParams p, const bool vectors) {
    using Kernel = Fused<Arithmetic, Shape, kCopyBytes>;
    // The grid, innermost first: filters, so that neighbours share the rows they gather; columns; rows; images; groups.
    const int tiles_n = divide_up(p.K, Kernel::kBlockN);
    unsigned block = blockIdx.x;
    const int first_n = static_cast<int>(block % tiles_n) * Kernel::kBlockN;
    block /= tiles_n;
    Segment segment;
    const int tiles_q = divide_up(p.output.W, p.plan.windows), tiles_p = divide_up(p.output.H, p.plan.segment);
    segment.first_q = static_cast<int>(block % tiles_q) * p.plan.windows;
    block /= tiles_q;
    segment.first_p = static_cast<int>(block % tiles_p) * p.plan.segment;
    segment.end_p = min(segment.first_p + p.plan.segment, p.output.H);
    block /= tiles_p;
    segment.n = static_cast<int>(block % p.output.N);
    const int group = static_cast<int>(block / p.output.N);

    // In the convolution's output: what the windows of the segment look at, and what they leave out.
    const int columns = 2 * p.plan.windows + 1, rows = Kernel::kBlockM / columns;
    const int end_h = 2 * segment.end_p + 1, end_w = 2 * p.output.W + 1;
    const Taps vertical = taps_of(p.vertical, false, 0, end_h, p.R);
    const Taps horizontal = taps_of(p.horizontal, false, 0, end_w, p.S);

    unsigned char* shared = ptx::dynamic_shared_memory<unsigned char>();
    Pixel* const table = Kernel::table(shared);
    Kernel::load_bias(shared, p, group, first_n);
    for (int first_h = 2 * segment.first_p; first_h < end_h; first_h += rows) {
        for (int i = threadIdx.x; i < Kernel::kBlockM; i += Kernel::kThreads) {
            const int h = first_h + i / columns, w = 2 * segment.first_q + i % columns;
            const bool inside = i < rows * columns && h < end_h && w < end_w;
            table[i] = {inside ? segment.n : -1, h, w};
        }
        __syncthreads();
        typename Kernel::Sums sums;
        Kernel::multiply(sums, shared, p, {vertical, horizontal, group, first_n, 0, 1});
        Kernel::stage(shared, sums, true);
        __syncthreads();
        const int channels = min(p.K - first_n, Kernel::kBlockN), first_channel = group * p.K + first_n;
        if (vectors) {
            Kernel::template pool<kVector<typename Kernel::T>>(shared, p, segment, first_h, rows, columns,
                                                               first_channel, channels);
        } else {
            Kernel::template pool<1>(shared, p, segment, first_h, rows, columns, first_channel, channels);
        }
        __syncthreads();  // all have done with the rows above
        if (first_h + rows < end_h) Kernel::carry(shared, first_h, rows, columns);
    }
}

// Whether pooled values and offsets can be written in vectors of channels wherever a tile starts.
template <typename T>
bool in_vectors(const ForwardParams& params) {
    constexpr int kWidth = kVector<T>;
    const conv2d_relu::Image& output = params.output;
    const max_pool2d::Strides strides{output.stride_N, output.stride_C, output.stride_H, output.stride_W};
    return params.K % kWidth == 0 && max_pool2d::in_vectors(output.data, strides, kWidth, sizeof(T)) &&
           (params.offsets == nullptr || max_pool2d::in_vectors(params.offsets, strides, kWidth, 1));
}

}  // namespace

void forward(conv2d_relu::Arithmetic arithmetic, const ForwardParams& params, Stream stream) {
    const conv2d_relu::Image& output = params.output;
    const Plan& plan = params.plan;
    conv2d_relu::with_instantiation<kFirstTile>(
        arithmetic, plan.tile, params.C, [&](auto arithmetic_tag, auto shape, auto copy_bytes) {
            using Shape = decltype(shape);
            using Kernel = Fused<decltype(arithmetic_tag), Shape, decltype(copy_bytes)::value>;
            const int columns = 2 * plan.windows + 1;
            if (plan.windows < 1 || columns > Kernel::kBlockM || plan.segment < 1) {
                throw std::runtime_error("conv2d_relu_max_pool2d: no such plan: " + std::to_string(plan.windows) +
                                         " windows by " + std::to_string(plan.segment));
            }
            Kernel::check_reach(params, 1);
            const std::int64_t blocks = static_cast<std::int64_t>(divide_up(params.K, Kernel::kBlockN)) *
                                        divide_up(output.W, plan.windows) * divide_up(output.H, plan.segment) *
                                        output.N * params.groups;
            ptx::launch("conv2d_relu_max_pool2d",
                        forward_kernel<decltype(arithmetic_tag), Shape, decltype(copy_bytes)::value>,
                        conv2d_relu::grid_of(blocks, "the convolution with pooling"), Shape::kThreads,
                        Kernel::shared_bytes(columns), stream, params, in_vectors<typename Kernel::T>(params));
        });
}

}  // namespace alexkern::conv2d_relu_max_pool2d
