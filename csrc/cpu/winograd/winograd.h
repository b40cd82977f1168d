// Convolution with bias and ReLU on the host's processor, for 3x3 and 5x5 filters at stride 1 in 4/9 and 9/25 of the
// products, or 3x3 in 1/4 with larger tiles, and the gradient of its input, which is such a convolution too. A larger
// stride's is one over blocks of stride x stride pixels, whose numbers are its channels: 11x11 filters at stride 4 are
// 3x3 of these, for 16/30. Of bfloat16, where the processor multiplies it, 3x3 in 4/9: points are rounded to it too.
#pragma once

#include <cstdint>

#include "../isa.h"
#include "../max_pool2d/max_pool2d.h"

namespace alexkern::winograd {

using Index = std::int64_t;

struct Shape {
    Index N, C, H, W, K;  // C and K of one group; C of a block, of whose numbers channels lie side by side
    Index R;              // of square filters, in blocks: 3 or 5
    Index padding_h, padding_w, groups;
    Index stride;           // above 1 there is one group, and channels come last
    Index P, Q;             // of outputs
    Index M = 2;            // outputs of a tile a side: 2, or of 3x3 filters 4
    bool bfloat16 = false;  // the numbers of all tensors, else float32

    Index points() const { return (M + R - 1) * (M + R - 1); }  // of a tile
};

constexpr int FILTERS = 32;  // of a panel: K is filled up to a multiple of it, in every group

// A weight's number for filter k, channel c and tap r R + s of a group lies at k filter + c channel + tap * that, and
// where it is flipped, at R R - 1 - tap. One of the three steps is 1.
struct Weight {
    const void* data;
    Index group, filter, channel, tap;
    bool flipped;
};

// weight becomes filters, for every instruction set the same: (groups, panels, points, C, FILTERS), of bfloat16 with
// two channels side by side, (groups, panels, points, ceil(C / 2), FILTERS, 2).
struct Pack {
    Shape shape;
    Weight weight;
    void* filters;
    int threads;
};

// Images are dense, (N, H, W, groups C) where channels_last, else (N, groups C, H, W), and outputs alike.
struct Convolution {
    Shape shape;
    bool channels_last;
    const void* input;
    const void* gate;  // or null: where it is <= 0 the input counts as 0, as behind a ReLU's gradient
    void* filters;
    const Weight* weight;  // that filters have to be packed of first, or null
    const void* bias;      // or null
    bool relu;
    void* output;
    float* workspace;  // `workspace` floats a thread
    int threads;
    const max_pool2d::Forward* pool;  // or null: takes an image's outputs, which go nowhere else
};

// The gradient of a weight, (groups K, C, R, R) of blocks, or with the channels last, as the images.
struct WeightGrad {
    Shape shape;  // of the convolution, M = 2
    bool channels_last;
    const void* input;
    const void* grad;  // as an output
    void* weight_grad;
    float* workspace;  // `weight_grad_workspace` floats
    int threads;
};

template <Isa>
void pack(const Pack& call);
template <Isa>
Index workspace(const Shape& shape, const max_pool2d::Forward* pool);
// Returns false if a number was not finite before the ReLU: where an infinity is in a tile, the other outputs of the
// tile are not the convolution's.
template <Isa>
bool convolve(const Convolution& call);
template <Isa>
Index weight_grad_workspace(const Shape& shape, int threads);
template <Isa>
bool weight_grad(const WeightGrad& call);  // false as above

}  // namespace alexkern::winograd
