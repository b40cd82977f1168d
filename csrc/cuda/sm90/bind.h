// The sm_90a launchers of conv2d_relu and linear_relu_dropout for Python.
#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "../../pointers.h"
#include "../conv2d_relu/bind.h"
#include "hopper.h"

namespace alexkern {

using Three = std::array<int, 3>;  // a choice: columns of a tile, splits, blocks of a cluster

inline hopper::Choice choice_of(const Three& choice) { return {choice[0], choice[1], choice[2]}; }

inline void bind_hopper(pybind11::module_& module) {
    using namespace hopper;
    module.attr("hopper_tiles") = pybind11::make_tuple(kBlockM, kBlockN, kWeightBlockN);
    module.attr("hopper_depths") = pybind11::make_tuple(kSmallDepth, kDepth);
    module.def("hopper_depth", &depth_of, "Channels of a step, for so many channels of a group.");

    module.def("hopper_convolve",
               [](int element, Address input, const Four& sizes, int C, Address filters, int K, Address bias,
                  Address partials, Address output, const Pair& output_size, const Pair& kernel_size,
                  const Pair& stride, const Pair& padding, const Pair& dilation, int groups, bool turned, bool relu,
                  const Three& choice, int multiprocessors, Address stream) {
                   ConvolveParams p{};
                   p.input = pointer(input);
                   p.filters = pointer(filters);
                   p.bias = pointer(bias);
                   p.output = pointer(output);
                   p.partials = pointer<float>(partials);
                   set_sizes(p, sizes, C, output_size, K, kernel_size, stride, padding, dilation, groups);
                   p.turned = turned;
                   p.relu = relu;
                   p.choice = choice_of(choice);
                   p.multiprocessors = multiprocessors;
                   convolve(static_cast<Element>(element), p, pointer<CUstream_st>(stream));
               });
    module.def("hopper_weight_gradient",
               [](int element, Address input, const Four& sizes, int C, Address grad, const Pair& output_size, int K,
                  int filters, Address partials, const Pair& kernel_size, const Pair& stride, const Pair& padding,
                  const Pair& dilation, int groups, const Three& choice, int multiprocessors, Address stream) {
                   WeightGradientParams p{};
                   p.input = pointer(input);
                   p.grad = pointer(grad);
                   p.partials = pointer<float>(partials);
                   set_sizes(p, sizes, C, output_size, K, kernel_size, stride, padding, dilation, groups);
                   p.filters = filters;
                   p.choice = choice_of(choice);
                   p.multiprocessors = multiprocessors;
                   weight_gradient(static_cast<Element>(element), p, pointer<CUstream_st>(stream));
               });

    module.def("hopper_linear",
               [](int element, Address input, std::int64_t rows, int channels, Address weight, int features,
                  Address bias, Address partials, Address output, Address seed, std::uint64_t limit, float scale,
                  const Three& choice, int multiprocessors, Address stream) {
                   ConvolveParams p{};
                   p.input = pointer(input);
                   p.filters = pointer(weight);
                   p.bias = pointer(bias);
                   p.output = pointer(output);
                   p.partials = pointer<float>(partials);
                   p.N = static_cast<int>(rows);
                   p.H = p.W = p.R = p.S = p.P = p.Q = p.groups = 1;
                   p.C = channels;
                   p.K = features;
                   p.vertical = p.horizontal = {1, 0, 1};
                   p.relu = true;
                   p.seed = pointer<const std::int64_t>(seed);
                   p.limit = limit;
                   p.scale = scale;
                   p.choice = choice_of(choice);
                   p.multiprocessors = multiprocessors;
                   convolve(static_cast<Element>(element), p, pointer<CUstream_st>(stream));
               });
}

}  // namespace alexkern
