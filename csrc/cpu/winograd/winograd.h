// Convolution of stride 1 with bias and ReLU on the host's processor, for 3x3 and 5x5 filters in 4/9 and 9/25 of the
// products, and the gradient of its input, which is such a convolution too.
#pragma once

#include <cstdint>

#include "../isa.h"

namespace alexkern::winograd {

using Index = std::int64_t;

struct Shape {
    Index N, C, H, W, K;  // C and K of one group
    Index R;              // of square filters: 3 or 5
    Index padding_h, padding_w, groups;

    Index height() const { return H + 2 * padding_h - R + 1; }
    Index width() const { return W + 2 * padding_w - R + 1; }
};

constexpr int FILTERS = 32;  // of a panel: K is filled up to a multiple of it, in every group

// A weight's number for filter k, channel c and tap r R + s of a group lies at k filter + c channel + tap * that, and
// where it is flipped, at R R - 1 - tap. One of the three steps is 1.
struct Weight {
    const float* data;
    Index group, filter, channel, tap;
    bool flipped;
};

// weight becomes filters, for every instruction set the same: (groups, panels, (R + 1)^2, C, FILTERS).
struct Pack {
    Shape shape;
    Weight weight;
    float* filters;
    int threads;
};

// Images are dense, (N, H, W, groups C) where channels_last, else (N, groups C, H, W), and outputs alike.
struct Convolution {
    Shape shape;
    bool channels_last;
    const float* input;
    const float* gate;  // or null: where it is <= 0 the input counts as 0, as behind a ReLU's gradient
    const float* filters;
    const float* bias;  // or null
    bool relu;
    float* output;
    float* workspace;  // `workspace` floats a thread
    int threads;
};

template <Isa>
void pack(const Pack& call);
template <Isa>
Index workspace(const Shape& shape);
// Returns false if a number was not finite before the ReLU: where an infinity is in a tile, the other outputs of the
// tile are not the convolution's.
template <Isa>
bool convolve(const Convolution& call);

}  // namespace alexkern::winograd
