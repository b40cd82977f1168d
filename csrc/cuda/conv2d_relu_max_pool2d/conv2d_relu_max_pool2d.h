// Convolution, bias, ReLU and max-pooling in one kernel, whose product never reaches memory, and the way back through
// pooling and ReLU in another. The products themselves are conv2d_relu's.
#pragma once

#include "../conv2d_relu/conv2d_relu.h"
#include "../max_pool2d/max_pool2d.h"

namespace alexkern::conv2d_relu_max_pool2d {

// How the fused kernel cuts up the pooled output. A block takes `windows` columns by `segment` rows of it, all filters
// of a tile, and walks down the image, as many rows of the convolution's output at a time as the tile has places for.
struct Plan {
    int tile;  // into conv2d_relu::kTileSizes
    int windows, segment;
};
constexpr int kFirstTile = 1;  // of kTileSizes that are compiled: a larger one would leave one block a multiprocessor

struct ForwardParams : conv2d_relu::Convolution {
    conv2d_relu::Image output;  // (N, groups * K, P, Q), pooled
    void* offsets;              // uint8, lying as the output does, as max_pool2d's behind a ReLU; or null
    Plan plan;
};
void forward(conv2d_relu::Arithmetic arithmetic, const ForwardParams& params, Stream stream);

// The gradient of the convolution's output before its ReLU, as conv2d_relu's products read it, from that of the pooled
// output: any window.
struct BackwardParams {
    max_pool2d::Params pool;  // (N, groups * C, H, W) and (N, groups * C, P, Q); `image` is not used
    void* destination;        // (N, H, W, groups, padded_C)
    float* sums;              // (chunks, groups * padded_C): over the pixels of each chunk; or null
    int groups, padded_C, chunks;
};
void backward(const BackwardParams& params, Stream stream);

}  // namespace alexkern::conv2d_relu_max_pool2d
