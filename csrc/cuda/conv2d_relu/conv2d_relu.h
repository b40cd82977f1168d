// Convolution with bias and ReLU, and its gradients, as implicit matrix products on NHWC memory.
//
// Inside, channels lie innermost, each group's padded with zeros to whole copies of cp.async: pack() brings tensors of
// any strides there, and what lies so already is used as it is. The data gradient is a convolution of the masked
// gradient with the filters turned round; with a stride, one for each residue of the input's rows and columns.
#pragma once

#include <cstdint>

#include "../elements.h"
#include "../sizes.h"

namespace alexkern::conv2d_relu {

struct Arithmetic {
    Element element;
    bool tf32;  // float32 is rounded to TF32 before it is multiplied
};

// A tensor of any strides, counted in elements.
struct Image {
    void* data = nullptr;
    int N = 0, C = 0, H = 0, W = 0;
    std::int64_t stride_N = 0, stride_C = 0, stride_H = 0, stride_W = 0;
};

// What alexkern/cost/sm80.py chooses by a problem's size.
struct Choice {
    int tile;    // into kTileSizes
    int splits;  // of GEMM_K; their sums are added in a fixed order
};

struct TileSize {
    int m, n;
};
constexpr TileSize kTileSizes[] = {{128, 128}, {128, 64}, {64, 64}};
constexpr int kTiles = sizeof(kTileSizes) / sizeof(TileSize);

struct PackParams {
    Image source;       // (N, groups * C, H, W)
    Image mask;         // of the same sizes, data null for none: 0 where it is <= 0, whatever lies in source
    void* destination;  // (N, H, W, groups, padded_C)
    float* sums;        // (chunks, groups * padded_C): over the pixels of each chunk; or null
    int groups, padded_C, chunks;
};
void pack(Element element, const PackParams& params, Stream stream);

// What a convolution reads.
struct Convolution : Sizes {
    const void* input;   // (N, H, W, groups, C)
    const void* weight;  // (groups, K, R, S, C)
    const void* bias;    // (groups, K), or null
};

struct ConvolveParams : Convolution {
    float* partials;  // (splits, N, P, Q, groups, padded_K), or null where there is one split
    Image output;     // (N, groups * K, P, Q)
    int padded_K;
    bool transposed;  // the data gradient: input is the gradient, and output the input's
    bool relu;
    Choice choice;
};
void convolve(Arithmetic arithmetic, const ConvolveParams& params, Stream stream);

struct WeightGradientParams : Sizes {
    const void* input;  // (N, H, W, groups, C)
    const void* grad;   // (N, P, Q, groups, padded_K), masked
    float* partials;    // (splits, groups, K, R, S, C)
    int padded_K;
    Choice choice;
};
void weight_gradient(Arithmetic arithmetic, const WeightGradientParams& params, Stream stream);

struct ReduceParams {
    const float* partials;  // (splits, N, H, W, groups, padded_C)
    const void* bias;       // (groups * C), or null
    Image output;           // (N, groups * C, H, W)
    int groups, padded_C, splits;
    bool relu;
};
void reduce(Element element, const ReduceParams& params, Stream stream);

}  // namespace alexkern::conv2d_relu
