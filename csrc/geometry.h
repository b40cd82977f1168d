// The sizes of a convolution, or of pooling's windows: as Python has them, and as kernels take them.
#pragma once

#include "pointers.h"

namespace alexkern {

// Geometry of alexkern/geometry.py, field by field; arguments.h has their names.
struct Geometry {
    int N, C, H, W, K, R, S;
    Pair stride, padding, dilation;
    int groups;
};

// One direction of a convolution. The padding may be negative.
struct Axis {
    int stride, padding, dilation;
};

// What the parameters of all convolution kernels have in common. C and K are those of a group, C with its padding.
struct Sizes {
    int N, H, W, C, R, S, P, Q, K, groups;
    Axis vertical, horizontal;
};

inline Sizes sizes_of(const Geometry& of, int padded_C) {
    const auto axis = [&](int i) { return Axis{of.stride[i], of.padding[i], of.dilation[i]}; };
    const auto outputs = [](int size, int taps, const Axis& along) {
        return (size + 2 * along.padding - along.dilation * (taps - 1) - 1) / along.stride + 1;
    };
    const Axis vertical = axis(0), horizontal = axis(1);
    const int P = outputs(of.H, of.R, vertical), Q = outputs(of.W, of.S, horizontal);
    return {of.N, of.H, of.W, padded_C, of.R, of.S, P, Q, of.K / of.groups, of.groups, vertical, horizontal};
}

}  // namespace alexkern
