// Where a convolution's output pixels find their input.
#pragma once

#include "../ptx/platform.cuh"
#include "conv2d_relu.h"

namespace alexkern::conv2d_relu {

// One direction of a plain convolution over some of the outputs and some of the filter's taps: output i is number
// first_output + i * output_step, tap j number first_tap + j * tap_step, and they meet at
// first_source + i * source_per_output + j * source_per_tap of the input.
struct Taps {
    int outputs, first_output, output_step;
    int count, first_tap, tap_step;
    int first_source, source_per_output, source_per_tap;
};

// How many plain convolutions make up one direction: those of a large stride that have an output.
__host__ __device__ inline int residues_of(const Axis& axis, bool transposed, int outputs) {
    return !transposed ? 1 : axis.stride < outputs ? axis.stride : outputs;
}

// A data gradient gathers, for x of the forward's input, the outputs p with p * stride - padding + r * dilation = x.
// For x = residue + stride * i these are all outputs of every tap_step-th tap r from first_tap on, or none.
__host__ __device__ inline Taps taps_of(const Axis& axis, bool transposed, int residue, int outputs, int taps) {
    if (!transposed) return {outputs, 0, 1, taps, 0, 1, -axis.padding, axis.stride, axis.dilation};
    int divisor = axis.stride, rest = axis.dilation % axis.stride;
    while (rest != 0) {
        const int next = divisor % rest;
        divisor = rest;
        rest = next;
    }
    const int tap_step = axis.stride / divisor;
    int first_tap = 0;
    while (first_tap < tap_step && first_tap < taps &&
           (residue + axis.padding - first_tap * axis.dilation) % axis.stride != 0)
        ++first_tap;
    const bool any = first_tap < tap_step && first_tap < taps;
    return {residue < outputs ? (outputs - residue + axis.stride - 1) / axis.stride : 0,
            residue,
            axis.stride,
            any ? (taps - first_tap + tap_step - 1) / tap_step : 0,
            first_tap,
            tap_step,
            (residue + axis.padding - first_tap * axis.dilation) / axis.stride,
            1,
            -(axis.dilation / divisor)};
}

}  // namespace alexkern::conv2d_relu
