// The sm_90a launchers of conv2d_relu for Python, and the model that chooses their tiles.
#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "../pointers.h"
#include "hopper.h"

namespace alexkern {

inline void bind_hopper(pybind11::module_& module) {
    using namespace hopper;
    const auto work_of = [](std::int64_t rows, int columns, std::int64_t steps, int batches, int depth, bool sums) {
        return Work{rows, columns, steps, batches, depth, sums};
    };
    module.def("hopper_depth", &depth_of, "Channels of a step, for so many channels of a group.");
    module.def(
        "hopper_choose",
        [work_of](std::int64_t rows, int columns, std::int64_t steps, int batches, int depth, bool sums,
                  int multiprocessors, bool weight_gradient) {
            const Choice choice =
                choose(work_of(rows, columns, steps, batches, depth, sums), multiprocessors, weight_gradient);
            return Pair{choice.block_n, choice.splits};
        },
        "Columns of a tile, and how many splits the steps are summed in.");
    module.def(
        "hopper_modelled_cycles",
        [work_of](std::int64_t rows, int columns, std::int64_t steps, int batches, int depth, bool sums,
                  const Pair& choice, int multiprocessors) {
            return modelled_cycles(work_of(rows, columns, steps, batches, depth, sums), {choice[0], choice[1]},
                                   multiprocessors);
        },
        "The time of a launch by the model that chooses tiles, in cycles.");

    const auto axes = [](auto& p, const Pair& stride, const Pair& padding, const Pair& dilation) {
        p.vertical = {stride[0], padding[0], dilation[0]};
        p.horizontal = {stride[1], padding[1], dilation[1]};
    };
    module.def("hopper_convolve",
               [axes](int element, Address input, const Four& sizes, int C, Address filters, int K, Address bias,
                      Address partials, Address output, const Pair& output_size, const Pair& kernel_size,
                      const Pair& stride, const Pair& padding, const Pair& dilation, int groups, bool turned, bool relu,
                      const Pair& choice, int multiprocessors, Address stream) {
                   ConvolveParams p{};
                   p.input = pointer(input);
                   p.filters = pointer(filters);
                   p.bias = pointer(bias);
                   p.output = pointer(output);
                   p.partials = pointer<float>(partials);
                   p.N = static_cast<int>(sizes[0]);
                   p.H = static_cast<int>(sizes[2]);
                   p.W = static_cast<int>(sizes[3]);
                   p.C = C;
                   p.R = kernel_size[0];
                   p.S = kernel_size[1];
                   p.P = output_size[0];
                   p.Q = output_size[1];
                   p.K = K;
                   p.groups = groups;
                   axes(p, stride, padding, dilation);
                   p.turned = turned;
                   p.relu = relu;
                   p.choice = {choice[0], choice[1]};
                   p.multiprocessors = multiprocessors;
                   convolve(static_cast<Element>(element), p, pointer<CUstream_st>(stream));
               });
    module.def(
        "hopper_weight_gradient",
        [axes](int element, Address input, const Four& sizes, int C, Address grad, const Pair& output_size, int K,
               int filters, Address partials, const Pair& kernel_size, const Pair& stride, const Pair& padding,
               const Pair& dilation, int groups, const Pair& choice, int multiprocessors, Address stream) {
            WeightGradientParams p{};
            p.input = pointer(input);
            p.grad = pointer(grad);
            p.partials = pointer<float>(partials);
            p.N = static_cast<int>(sizes[0]);
            p.H = static_cast<int>(sizes[2]);
            p.W = static_cast<int>(sizes[3]);
            p.C = C;
            p.R = kernel_size[0];
            p.S = kernel_size[1];
            p.P = output_size[0];
            p.Q = output_size[1];
            p.K = K;
            p.filters = filters;
            p.groups = groups;
            axes(p, stride, padding, dilation);
            p.choice = {choice[0], choice[1]};
            p.multiprocessors = multiprocessors;
            weight_gradient(static_cast<Element>(element), p, pointer<CUstream_st>(stream));
        });
}

}  // namespace alexkern
