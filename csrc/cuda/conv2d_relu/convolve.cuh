// A tile of a convolution as a product: its rows are output pixels, its columns filters, and the depth runs over taps
// and channels. Rows of A are gathered from the input, copy by copy, zeros where a tap lies outside.
#pragma once

#include "geometry.cuh"
#include "store.cuh"
#include "traits.cuh"

namespace alexkern::conv2d_relu {

// Shared memory of a block: the ring of stages, and in the same place, once the product is done, the tile on its way
// out; then, from kTableAt on, the pixels of the rows and the biases of the columns.
template <typename Arithmetic, typename Shape, int kCopyBytes>
struct ConvolveTile {
    using T = typename Arithmetic::Element;
    using TileA = mma::Tile<T, mma::Along::depth, Shape::kBlockM>;
    using TileB = mma::Tile<T, mma::Along::depth, Shape::kBlockN>;
    using Sums = mma::Sums<Shape::kWarpRows, Shape::kWarpColumns>;
    using Staged = StagedTile<T, Shape::kBlockM, Shape::kBlockN>;
    static constexpr int kBlockM = Shape::kBlockM, kBlockN = Shape::kBlockN, kBlockK = TileA::kDepth;
    static constexpr int kThreads = Shape::kThreads, kBlocks = blocks_of<kCopyBytes>();
    static constexpr int kCopy = kCopyBytes / sizeof(T);                 // values
    static constexpr int kCopiesPerRow = mma::kDepthBytes / kCopyBytes;  // of a tile
    static constexpr int kRowsPerPass = kThreads / kCopiesPerRow;        // all threads copy once
    static constexpr int kPassesA = kBlockM / kRowsPerPass, kPassesB = kBlockN / kRowsPerPass;
    static constexpr int kStageBytes = Shape::kStages * (TileA::kBytes + TileB::kBytes);
    static constexpr int kTableAt = kStageBytes > Staged::kBytes ? kStageBytes : Staged::kBytes;
    static constexpr int kBiasAt = kTableAt + kBlockM * static_cast<int>(sizeof(Pixel));
    static constexpr int kSharedBytes = kBiasAt + kBlockN * static_cast<int>(sizeof(float));

    static __device__ __forceinline__ Pixel* table(unsigned char* shared) {  // (kBlockM)
        return reinterpret_cast<Pixel*>(shared + kTableAt);
    }

    static __device__ __forceinline__ float* bias(unsigned char* shared) {  // (kBlockN)
        return reinterpret_cast<float*>(shared + kBiasAt);
    }

    // Throws where a tile's rows come from more pixels than 32 bits can count the copies of.
    static void check_reach(const Convolution& p, std::int64_t images) {
        if (images * p.H * p.W <= 0x7fffffff / (p.groups * p.C / kCopy)) return;
        throw std::runtime_error("conv2d_relu: an image is too large: " + std::to_string(p.H) + " x " +
                                 std::to_string(p.W) + " pixels of " + std::to_string(p.groups * p.C) +
                                 " channels, padded");
    }

    // All threads: the biases of the group's filters from first_n on, 0 where there are none.
    static __device__ __forceinline__ void load_bias(unsigned char* shared, const Convolution& p, int group,
                                                     int first_n) {
        for (int n = threadIdx.x; n < kBlockN; n += kThreads) {
            const bool inside = p.bias != nullptr && first_n + n < p.K;
            bias(shared)[n] = inside ? ptx::to_float(static_cast<const T*>(p.bias)[group * p.K + first_n + n]) : 0.0f;
        }
    }

    // All threads: the finished values to the staged tile, where other threads find them behind a barrier.
    static __device__ __forceinline__ void stage(unsigned char* shared, const Sums& sums, bool relu) {
        const Staged staged{shared};
        const float* const biases = bias(shared);
        mma::for_each_pair<Shape>(sums, [&](int m, int n, float first, float second) {
            staged.put(m, n, finished(first + biases[n], relu), finished(second + biases[n + 1], relu));
        });
    }

    // All threads, once the table is there (its first row is a pixel): sums += A B over part `split` of so many parts
    // of the depth.
    static __device__ __forceinline__ void multiply(Sums& sums, unsigned char* shared, const Convolution& p,
                                                    const Taps& vertical, const Taps& horizontal, int group,
                                                    int first_n, int split, int splits) {
        // This thread's copies: the same columns of some rows of A and of B. Places are counted in copies from the
        // tile's first image on, which takes 32 bits.
        const Pixel* const pixels = table(shared);
        const int column = threadIdx.x % kCopiesPerRow, first_row = threadIdx.x / kCopiesPerRow;
        const int pixel_stride = p.groups * p.C, pixel_copies = pixel_stride / kCopy;
        const int first_image = pixels[0].n;
        const T* const images = static_cast<const T*>(p.input) +
                                static_cast<std::int64_t>(first_image) * p.H * p.W * pixel_stride + group * p.C;
        int source_h[kPassesA], source_w[kPassesA];
        int source_copy[kPassesA];  // at the first tap and channel, be it inside the image or not
#pragma unroll
        for (int pass = 0; pass < kPassesA; ++pass) {
            const Pixel pixel = pixels[first_row + pass * kRowsPerPass];
            source_h[pass] = vertical.first_source + pixel.h * vertical.source_per_output;
            source_w[pass] = horizontal.first_source + pixel.w * horizontal.source_per_output;
            source_copy[pass] =
                (((pixel.n - first_image) * p.H + source_h[pass]) * p.W + source_w[pass]) * pixel_copies;
            if (pixel.n < 0) source_h[pass] = -0x40000000;  // outside, whatever the tap
        }
        const T* filters = static_cast<const T*>(p.weight) +
                           static_cast<std::int64_t>(group * p.K + first_n + first_row) * p.R * p.S * p.C;
        const std::int64_t filters_per_pass = static_cast<std::int64_t>(kRowsPerPass) * p.R * p.S * p.C;

        const int steps_in_all = divide_up(vertical.count * horizontal.count * p.C, kBlockK);
        const auto first_step_of = [&](int s) {
            return static_cast<int>(static_cast<std::int64_t>(steps_in_all) * s / splits);
        };
        const int first_step = first_step_of(split), steps = first_step_of(split + 1) - first_step;
        // Depth as (tap row, tap column, channel), and a step of it as the same digits: advancing is an addition.
        const int taps_w = horizontal.count > 0 ? horizontal.count : 1;
        const int first_depth = first_step * kBlockK + column * kCopy;
        int c = first_depth % p.C, tap_w = first_depth / p.C % taps_w, tap_h = first_depth / p.C / taps_w;
        const int advance_c = kBlockK % p.C;
        const int advance_w = kBlockK / p.C % taps_w, advance_h = kBlockK / p.C / taps_w;

        const int copy_column = column * kCopyBytes / mma::kVectorBytes;
        const int copy_offset = column * kCopyBytes % mma::kVectorBytes;
        mma::multiply<Arithmetic, TileA, TileB, Shape>(
            sums, steps, [&](int, std::uint32_t a_tile, std::uint32_t b_tile) {
                const bool inside = tap_h < vertical.count;
                const int delta_h = tap_h * vertical.source_per_tap, delta_w = tap_w * horizontal.source_per_tap;
                const int delta = (delta_h * p.W + delta_w) * pixel_copies + c / kCopy;
#pragma unroll
                for (int pass = 0; pass < kPassesA; ++pass) {
                    const int h = source_h[pass] + delta_h, w = source_w[pass] + delta_w;
                    const bool there = inside && static_cast<unsigned>(h) < static_cast<unsigned>(p.H) &&
                                       static_cast<unsigned>(w) < static_cast<unsigned>(p.W);
                    const int row = first_row + pass * kRowsPerPass;
                    const std::int64_t place = static_cast<std::int64_t>(source_copy[pass] + delta) * kCopy;
                    copy<kCopyBytes>(a_tile + TileA::vector(row, copy_column) + copy_offset,
                                     images + (there ? place : 0), there);
                }
                const int tap = (vertical.first_tap + tap_h * vertical.tap_step) * p.S + horizontal.first_tap +
                                tap_w * horizontal.tap_step;
#pragma unroll
                for (int pass = 0; pass < kPassesB; ++pass) {
                    const int row = first_row + pass * kRowsPerPass;
                    const bool there = inside && first_n + row < p.K;
                    const T* source = filters + pass * filters_per_pass + tap * p.C + c;
                    copy<kCopyBytes>(b_tile + TileB::vector(row, copy_column) + copy_offset,
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
    }
};

}  // namespace alexkern::conv2d_relu
