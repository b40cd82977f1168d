#pragma once

#include "../../binding.h"
#include "../max_pool2d/bind.h"
#include "winograd.h"

namespace alexkern::winograd {

inline Shape shape_of(const WideGeometry& of, Index M = 2) {
    const Index stride = of.stride[0], C = stride * stride * of.C / of.groups, R = (of.R + stride - 1) / stride;
    const Index K = of.K / of.groups;
    return {of.N, C, of.H, of.W, K, R, of.padding[0], of.padding[1], of.groups, stride, of.P(), of.Q(), M};
}

using Steps = Tuple<Index, 4>;  // of a group, a filter, a channel, a tap
using max_pool2d::PooledSize;

inline Weight weight_of(Address data, const Steps& steps, bool flipped) {
    return {pointer<const float>(data), steps[0], steps[1], steps[2], steps[3], flipped};
}

// The pooling of a convolution's images, one by one, on a thread.
inline max_pool2d::Forward one_image(const WideGeometry& of, const PooledSize& pooled, bool channels_last, bool relu,
                                     bool wide_offsets, Address output, Address offsets) {
    max_pool2d::Windows windows = max_pool2d::windows(of, pooled);
    windows.N = 1;
    return {.windows = windows,
            .channels_last = channels_last,
            .bfloat16 = false,
            .relu = relu,
            .wide_offsets = wide_offsets,
            .input = nullptr,
            .output = pointer(output),
            .offsets = pointer(offsets),
            .workspace = nullptr,
            .threads = 1};
}

const Binding binding([](pybind11::module_& module) {
    module.attr("winograd_filters") = FILTERS;
    module.def("winograd_pack", [](const WideGeometry& geometry, Index M, Address weight, const Steps& steps,
                                   bool flipped, Address filters, int threads) {
        const Pack call{shape_of(geometry, M), weight_of(weight, steps, flipped), pointer<float>(filters), threads};
        const pybind11::gil_scoped_release released;
        on_isa([&](auto isa) { pack<isa>(call); });
    });
    module.def("winograd_workspace", [](const WideGeometry& geometry, Index M) {
        return on_isa([&](auto isa) { return workspace<isa>(shape_of(geometry, M), nullptr); });
    });
    module.def("winograd_pooled_workspace", [](const WideGeometry& geometry, Index M, bool channels_last,
                                               const WideGeometry& windows, const PooledSize& pooled) {
        const max_pool2d::Forward pool = one_image(windows, pooled, channels_last, false, false, 0, 0);
        return on_isa([&](auto isa) { return workspace<isa>(shape_of(geometry, M), &pool); });
    });
    module.def("winograd_convolve", [](const WideGeometry& geometry, Index M, bool channels_last, Address input,
                                       Address gate, Address filters, Address weight, const Steps& steps, bool flipped,
                                       Address bias, bool relu, Address output, Address workspace, int threads) {
        const Weight from = weight_of(weight, steps, flipped);
        const Convolution call{shape_of(geometry, M),
                               channels_last,
                               pointer<const float>(input),
                               pointer<const float>(gate),
                               pointer<float>(filters),
                               from.data ? &from : nullptr,
                               pointer<const float>(bias),
                               relu,
                               pointer<float>(output),
                               pointer<float>(workspace),
                               threads,
                               nullptr};
        const pybind11::gil_scoped_release released;
        return on_isa([&](auto isa) { return convolve<isa>(call); });
    });
    module.def("winograd_convolve_pooled", [](const WideGeometry& geometry, Index M, bool channels_last, Address input,
                                              Address filters, Address weight, const Steps& steps, Address bias,
                                              const WideGeometry& windows, const PooledSize& pooled, bool relu,
                                              bool wide_offsets, Address output, Address offsets, Address workspace,
                                              int threads) {
        const Weight from = weight_of(weight, steps, false);
        const max_pool2d::Forward pool = one_image(windows, pooled, channels_last, relu, wide_offsets, output, offsets);
        const Convolution call{shape_of(geometry, M),
                               channels_last,
                               pointer<const float>(input),
                               nullptr,
                               pointer<float>(filters),
                               from.data ? &from : nullptr,
                               pointer<const float>(bias),
                               false,
                               nullptr,
                               pointer<float>(workspace),
                               threads,
                               &pool};
        const pybind11::gil_scoped_release released;
        return on_isa([&](auto isa) { return convolve<isa>(call); });
    });
    module.def("winograd_weight_grad_workspace", [](const WideGeometry& geometry, int threads) {
        return on_isa([&](auto isa) { return weight_grad_workspace<isa>(shape_of(geometry), threads); });
    });
    module.def("winograd_weight_grad", [](const WideGeometry& geometry, bool channels_last, Address input, Address grad,
                                          Address weight_grad, Address workspace, int threads) {
        const WeightGrad call{shape_of(geometry),
                              channels_last,
                              pointer<const float>(input),
                              pointer<const float>(grad),
                              pointer<float>(weight_grad),
                              pointer<float>(workspace),
                              threads};
        const pybind11::gil_scoped_release released;
        return on_isa([&](auto isa) { return winograd::weight_grad<isa>(call); });
    });
});

}  // namespace alexkern::winograd
