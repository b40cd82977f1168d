// Convolution, bias, ReLU and max-pooling in one kernel, whose product never reaches memory, and the way back through
// pooling and ReLU in another. The products themselves are conv2d_relu's.
#pragma once

#include "../conv2d_relu/conv2d_relu.h"
#include "../max_pool2d/max_pool2d.h"

namespace alexkern::conv2d_relu_max_pool2d {

// How the fused kernel cuts up the pooled output. A block takes `windows` columns by `segment` rows of it, all filters
// of a tile, and walks down the image, as many rows of the convolution's output at a time as the tile has places for.
struct Plan {
    int tile;  // into conv2d_relu::kTileSizes; kSeparate: two kernels are faster
    int windows, segment;
};
constexpr int kSeparate = -1;
constexpr int kFirstTile = 1;  // of kTileSizes that are compiled: a larger one would leave one block a multiprocessor

// Sizes that the choice depends on. The windows are 3x3 with stride 2, not padded.
struct Problem {
    conv2d_relu::Arithmetic arithmetic;
    int N, P, Q;         // of the convolution's output
    int K, groups;       // filters of a group
    int depth;           // of a sum, padding included
    std::int64_t bytes;  // of images and filters
    bool save_offsets;
};

struct Cost {
    double flops;  // a multiply-add is two; what runs in vain counts
    double bytes;  // to and from the GPU's memory, everything else staying in its caches
    double time;   // in the units of conv2d_relu/model.h
};

struct Comparison {
    Plan plan;  // the best for the fused kernel
    Cost fused, separate;
};

// What each way costs by conv2d_relu's model, and memory's pace beside it. Pure.
Comparison compare(const Problem& problem, int multiprocessors);

struct ForwardParams : conv2d_relu::Convolution {
    conv2d_relu::Image output;  // (N, groups * K, P, Q), pooled
    void* offsets;              // uint8, lying as the output does; or null
    Plan plan;
};
void forward(conv2d_relu::Arithmetic arithmetic, const ForwardParams& params, Stream stream);

// The gradient of the convolution's output before its ReLU, as conv2d_relu's products read it, from that of the pooled
// output: any window.
struct BackwardParams {
    max_pool2d::Params pool;  // (N, groups * C, H, W) and (N, groups * C, P, Q); `image` is not used
    const void* output;       // (N, groups * C, P, Q), lying as the offsets do: the pooled values
    void* destination;        // (N, H, W, groups, padded_C)
    float* sums;              // (chunks, groups * padded_C): over the pixels of each chunk; or null
    int groups, padded_C, chunks;
};
void backward(const BackwardParams& params, Stream stream);

}  // namespace alexkern::conv2d_relu_max_pool2d
