// conv2d_relu's products on sm_90a: TMA brings the tiles, wgmma multiplies them. Images and filters are NHWC, 16-bit.
// linear_relu_dropout's product is one of them: a sample is an image of one pixel, an output feature a filter.
//
// These serve the shapes that `serves` in alexkern/backends/cuda/sm90.py names; csrc/cuda/conv2d_relu serves the rest.
#pragma once

#include <array>
#include <cstdint>

#include "../elements.h"
#include "../sizes.h"

namespace alexkern::sm90 {

constexpr int kBlockM = 128;  // two warpgroups of 64
constexpr std::array kBlockN = {64, 96, 128, 192, 256};
constexpr int kSmallBlockK = 48, kLargeBlockK = 64;  // channels of a step
constexpr int kPixels = 64;                          // of a step of the weight gradient
constexpr std::array kWeightBlockN = {64, 128, 256};

// What alexkern/cost/sm90.py chooses by a problem's size.
struct Choice {
    int block_n, splits;
    int cluster;  // blocks that share the tiles of filters: 1, or 2 where it is not the weight's gradient
};

// Channels of a step for `channels` of a group. TMA brings 64 in either case: 48 are what there is, and all that count.
constexpr int block_k_of(int channels) { return channels == kSmallBlockK ? kSmallBlockK : kLargeBlockK; }

struct ConvolveParams : Sizes {
    const void* input;    // (N, H, W, groups, C)
    const void* filters;  // (groups, K, R, S, C)
    const void* bias;     // (groups, K), or null
    void* output;         // (N, P, Q, groups, K), where there are no partials
    float* partials;      // (splits, N, P, Q, groups, K), or null
    bool turned;          // filters lie turned round: the data gradient
    bool relu;
    // Dropout of a dense output, where there are no partials: as csrc/cuda/philox.cuh's Rule has it; seed null for
    // none. mask: which elements let a gradient pass, a bit each, or null.
    std::uint8_t* mask;
    const std::int64_t* seed;
    std::uint64_t limit;
    float scale;
    Choice choice;
    int multiprocessors;
};
void convolve(Element element, const ConvolveParams& params, Stream stream);

struct WeightGradientParams : Sizes {
    const void* input;  // (N, H, W, groups, C)
    const void* grad;   // (N, P, Q, groups, K), masked
    float* partials;    // (splits, groups, filters, R, S, C)
    int filters;        // of a group, those that are stored: at most K, which is padded
    Choice choice;
    int multiprocessors;
};
void weight_gradient(Element element, const WeightGradientParams& params, Stream stream);

}  // namespace alexkern::sm90
