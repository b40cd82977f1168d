// A tile of a convolution as a product: GEMM_M is output pixels, GEMM_N filters, and GEMM_K taps and channels. A's rows
// are gathered from the input, copy by copy, zeros where a tap lies outside.
#pragma once

#include "geometry.cuh"
#include "store.cuh"
#include "traits.cuh"

namespace alexkern::conv2d_relu {

// What a block computes: outputs and taps of a plain convolution, a group's filters from first_n on, and part `split`
// of so many of GEMM_K.
struct Part {
    Taps vertical, horizontal;
    int group, first_n, split, splits;
};

// Shared memory of a block: the ring of stages, and in the same place, once the product is done, the values on their
// way out; then, from kTableAt on, the tile's pixels and the biases of its filters.
template <typename Arithmetic, typename Shape, int kCopyBytes>
struct ConvolveTile {
    using T = typename Arithmetic::Element;
    using LayoutA = mma::Layout<T, mma::Along::k, Shape::kBlockM>;
    using LayoutB = mma::Layout<T, mma::Along::k, Shape::kBlockN>;
    using Sums = mma::Sums<Shape::kWarpM, Shape::kWarpN>;
    using Out = Staging<T, Shape::kBlockM, Shape::kBlockN>;
    static constexpr int kBlockM = Shape::kBlockM, kBlockN = Shape::kBlockN, kBlockK = LayoutA::kBlockK;
    static constexpr int kThreads = Shape::kThreads, kBlocks = blocks_of<kCopyBytes>();
    static constexpr int kCopy = kCopyBytes / sizeof(T);                // values
    static constexpr int kCopiesPerRow = mma::kStepBytes / kCopyBytes;  // of a tile
    static constexpr int kRowsPerPass = kThreads / kCopiesPerRow;       // all threads copy once
    static constexpr int kPassesA = kBlockM / kRowsPerPass, kPassesB = kBlockN / kRowsPerPass;
    static constexpr int kStageBytes = Shape::kStages * (LayoutA::kBytes + LayoutB::kBytes);
    static constexpr int kTableAt = kStageBytes > Out::kBytes ? kStageBytes : Out::kBytes;
    static constexpr int kBiasAt = kTableAt + kBlockM * static_cast<int>(sizeof(Pixel));
    static constexpr int kSharedBytes = kBiasAt + kBlockN * static_cast<int>(sizeof(float));

    static __device__ __forceinline__ Pixel* table(unsigned char* shared) {  // (kBlockM)
        return reinterpret_cast<Pixel*>(shared + kTableAt);
    }

    static __device__ __forceinline__ float* bias(unsigned char* shared) {  // (kBlockN)
        return reinterpret_cast<float*>(shared + kBiasAt);
    }

    // Throws where a tile's pixels come from more of them than 32 bits can count the copies of, or where a tap's row
    // cannot be told from one outside: beside strides, paddings and dilations of up to 2**28.
    static void check_reach(const Convolution& p, std::int64_t images) {
        const bool countable = images * p.H * p.W <= 0x7fffffff / (p.groups * p.C / kCopy);
        if (countable && p.H <= 0x40000000 && p.W <= 0x40000000) return;
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

    // All threads: the finished values to the staging, where other threads find them behind a barrier.
    static __device__ __forceinline__ void stage(unsigned char* shared, const Sums& sums, bool relu) {
        const Out out{shared};
        const float* const biases = bias(shared);
        mma::for_each_pair<Shape>(sums, [&](int m, int n, float first, float second) {
            out.put(m, n, finished(first + biases[n], relu), finished(second + biases[n + 1], relu));
        });
    }

    // This thread's copies: in every step the same bytes of some rows of A and of B.
    struct Copies {
        const Convolution& p;
        const Part& part;
        int first_row = threadIdx.x / kCopiesPerRow, number = threadIdx.x % kCopiesPerRow;
        int vector = number * kCopyBytes / mma::kVectorBytes, offset = number * kCopyBytes % mma::kVectorBytes;

        template <typename Layout>
        __device__ __forceinline__ void fetch(std::uint32_t tile, int pass, const T* source, bool there) const {
            copy<kCopyBytes>(tile + Layout::vector(first_row + pass * kRowsPerPass, vector) + offset, source, there);
        }
    };

    // Those of A. Pixels are counted in copies from the tile's first image on: that takes 32 bits.
    struct Images {
        const T* first;                                // image and group
        int pixel_copies;                              // from one pixel to the next
        int h[kPassesA], w[kPassesA], copy[kPassesA];  // at the first tap and channel, be it inside the image or not

        __device__ __forceinline__ Images(const Copies& own, const Pixel* pixels) {
            const Convolution& p = own.p;
            const int pixel_stride = p.groups * p.C, first_image = pixels[0].n;
            pixel_copies = pixel_stride / kCopy;
            first = static_cast<const T*>(p.input) + static_cast<std::int64_t>(first_image) * p.H * p.W * pixel_stride +
                    own.part.group * p.C;
#pragma unroll
            for (int pass = 0; pass < kPassesA; ++pass) {
                const Pixel pixel = pixels[own.first_row + pass * kRowsPerPass];
                h[pass] = own.part.vertical.first_source + pixel.h * own.part.vertical.source_per_output;
                w[pass] = own.part.horizontal.first_source + pixel.w * own.part.horizontal.source_per_output;
                copy[pass] = (((pixel.n - first_image) * p.H + h[pass]) * p.W + w[pass]) * pixel_copies;
                if (pixel.n < 0) h[pass] = -0x60000000;  // outside, whatever the tap: it is less than that away
            }
        }

        __device__ __forceinline__ void fetch(const Copies& own, std::uint32_t tile, const Digits& at) const {
            const Convolution& p = own.p;
            const bool inside = at.outer < own.part.vertical.count;
            const int delta_h = at.outer * own.part.vertical.source_per_tap;
            const int delta_w = at.middle * own.part.horizontal.source_per_tap;
            const int delta = (delta_h * p.W + delta_w) * pixel_copies + at.inner / kCopy;
#pragma unroll
            for (int pass = 0; pass < kPassesA; ++pass) {
                const int tap_h = h[pass] + delta_h, tap_w = w[pass] + delta_w;
                const bool there = inside && static_cast<unsigned>(tap_h) < static_cast<unsigned>(p.H) &&
                                   static_cast<unsigned>(tap_w) < static_cast<unsigned>(p.W);
                const std::int64_t place = static_cast<std::int64_t>(copy[pass] + delta) * kCopy;
                own.template fetch<LayoutA>(tile, pass, first + (there ? place : 0), there);
            }
        }
    };

    // Those of B.
    struct Filters {
        const T* first;
        std::int64_t per_pass;

        __device__ __forceinline__ explicit Filters(const Copies& own) {
            const std::int64_t filter = static_cast<std::int64_t>(own.p.R) * own.p.S * own.p.C;
            first = static_cast<const T*>(own.p.weight) +
                    (own.part.group * own.p.K + own.part.first_n + own.first_row) * filter;
            per_pass = kRowsPerPass * filter;
        }

        __device__ __forceinline__ void fetch(const Copies& own, std::uint32_t tile, const Digits& at) const {
            const Taps &vertical = own.part.vertical, &horizontal = own.part.horizontal;
            const bool inside = at.outer < vertical.count;
            const int tap = (vertical.first_tap + at.outer * vertical.tap_step) * own.p.S + horizontal.first_tap +
                            at.middle * horizontal.tap_step;
#pragma unroll
            for (int pass = 0; pass < kPassesB; ++pass) {
                const bool there = inside && own.part.first_n + (own.first_row + pass * kRowsPerPass) < own.p.K;
                const T* source = first + pass * per_pass + tap * own.p.C + at.inner;
                own.template fetch<LayoutB>(tile, pass, there ? source : static_cast<const T*>(own.p.weight), there);
            }
        }
    };

    // All threads, once the table is there (its first entry is a pixel): sums += A B.
    static __device__ __forceinline__ void multiply(Sums& sums, unsigned char* shared, const Convolution& p,
                                                    const Part& part) {
        const Copies own{p, part};
        const Images images(own, table(shared));
        const Filters filters(own);
        const int steps_in_all = divide_up(part.vertical.count * part.horizontal.count * p.C, kBlockK);
        const auto first_step_of = [&](int split) {
            return static_cast<int>(static_cast<std::int64_t>(steps_in_all) * split / part.splits);
        };
        const int first_step = first_step_of(part.split), steps = first_step_of(part.split + 1) - first_step;
        const int taps_w = part.horizontal.count > 0 ? part.horizontal.count : 1;
        Digits at = Digits::of(first_step * kBlockK + own.number * kCopy, p.C, taps_w);  // channel, tap_w, tap_h
        const Digits step = Digits::of(kBlockK, p.C, taps_w);
        const auto fetch = [&](int, std::uint32_t a_tile, std::uint32_t b_tile) {
            images.fetch(own, a_tile, at);
            filters.fetch(own, b_tile, at);
            at.advance(step, p.C, taps_w);
        };
        mma::multiply<Arithmetic, LayoutA, LayoutB, Shape>(sums, steps, fetch);
    }
};

}  // namespace alexkern::conv2d_relu
