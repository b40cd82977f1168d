// A convolution's sizes as kernels take them.
#pragma once

#include "../geometry.h"

namespace alexkern {

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
    return {of.N, of.H, of.W, padded_C, of.R, of.S, of.P(), of.Q(), of.K / of.groups, of.groups, axis(0), axis(1)};
}

}  // namespace alexkern
