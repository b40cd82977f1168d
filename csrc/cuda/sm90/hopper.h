// conv2d_relu's products on sm_90a: TMA brings the tiles, wgmma multiplies them. Images and filters are NHWC, 16-bit.
// linear_relu_dropout's product is one of them: a sample is an image of one pixel, an output feature a filter.
//
// These serve the shapes that `serves` in alexkern/backends/cuda/sm90.py names; csrc/cuda/conv2d_relu serves the rest.
#pragma once

#include <cstdint>

#include "../elements.h"

namespace alexkern::hopper {

constexpr int kBlockM = 128;  // rows of a block's tile: two warpgroups of 64
constexpr int kBlockN[] = {64, 96, 128, 192, 256};
constexpr int kSmallDepth = 48, kDepth = 64;  // channels of a step
constexpr int kPixels = 64;                   // of a step of the weight gradient
constexpr int kWeightBlockN[] = {64, 128, 256};

// What a launch is made of: a product of `rows` x `columns`, `steps` long, `batches` times.
struct Work {
    std::int64_t rows;
    int columns;
    std::int64_t steps;
    int batches;
    int depth;               // of a step
    bool sums;               // fp32 sums are stored, also where there is one split
    std::int64_t bytes = 0;  // of operands too large for a cache, which device memory has to bring once
};

struct Choice {
    int block_n, splits;
    int cluster;  // blocks that share the tiles of filters: 1, or 2 where it is not the weight's gradient
};

// Channels of a step for `channels` of a group: what wastes least.
int depth_of(int channels);

// What a linear layer of `rows` samples is made of.
Work linear_work(std::int64_t rows, int columns, int channels);

// The time of a launch by a model of the chip, in cycles; its terms are in docs/hopper.md. Pure.
double modelled_cycles(const Work& work, const Choice& choice, int multiprocessors);

// The fastest by that model. Pure.
Choice choose(const Work& work, int multiprocessors, bool weight_gradient);

struct Axis {
    int stride, padding, dilation;  // the padding may be negative
};

struct ConvolveParams {
    const void* input;    // (N, H, W, groups, C)
    const void* filters;  // (groups, K, R, S, C)
    const void* bias;     // (groups, K), or null
    void* output;         // (N, P, Q, groups, K), where there are no partials
    float* partials;      // (splits, N, P, Q, groups, K), or null
    int N, H, W, C, R, S, P, Q, K, groups;
    Axis vertical, horizontal;
    bool turned;  // filters lie turned round: the data gradient
    bool relu;
    // Dropout of a dense output, where there are no partials: as csrc/cuda/philox.cuh's Rule has it; seed null for none.
    const std::int64_t* seed;
    std::uint64_t limit;
    float scale;
    Choice choice;
    int multiprocessors;
};
void convolve(Element element, const ConvolveParams& params, Stream stream);

struct WeightGradientParams {
    const void* input;                               // (N, H, W, groups, C)
    const void* grad;                                // (N, P, Q, groups, K), masked
    float* partials;                                 // (splits, groups, filters, R, S, C)
    int N, H, W, C, R, S, P, Q, K, filters, groups;  // filters: those of a group that are stored, at most K
    Axis vertical, horizontal;
    Choice choice;
    int multiprocessors;
};
void weight_gradient(Element element, const WeightGradientParams& params, Stream stream);

}  // namespace alexkern::hopper
