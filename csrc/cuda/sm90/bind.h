// The sm_90a launchers of conv2d_relu and linear_relu_dropout for Python, and the model that chooses their tiles.
#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "../conv2d_relu/bind.h"
#include "../pointers.h"
#include "hopper.h"

namespace alexkern {

using Three = std::array<int, 3>;  // a choice: columns of a tile, splits, blocks of a cluster

inline hopper::Choice choice_of(const Three& choice) { return {choice[0], choice[1], choice[2]}; }

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
            return Three{choice.block_n, choice.splits, choice.cluster};
        },
        "Columns of a tile, how many splits the steps are summed in, and blocks of a cluster.");
    module.def(
        "hopper_modelled_cycles",
        [work_of](std::int64_t rows, int columns, std::int64_t steps, int batches, int depth, bool sums,
                  const Three& choice, int multiprocessors) {
            return modelled_cycles(work_of(rows, columns, steps, batches, depth, sums), choice_of(choice),
                                   multiprocessors);
        },
        "The time of a launch by the model that chooses tiles, in cycles.");

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

    module.def(
        "hopper_choose_linear",
        [](std::int64_t rows, int columns, int channels, int multiprocessors) {
            const Choice choice = choose(linear_work(rows, columns, channels), multiprocessors, false);
            return Three{choice.block_n, choice.splits, choice.cluster};
        },
        "hopper_choose for a linear layer, whose weight no cache holds.");
    module.def(
        "hopper_modelled_linear_cycles",
        [](std::int64_t rows, int columns, int channels, const Three& choice, int multiprocessors) {
            return modelled_cycles(linear_work(rows, columns, channels), choice_of(choice), multiprocessors);
        },
        "hopper_modelled_cycles for a linear layer.");
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
