#pragma once

#include "../../binding.h"
#include "../max_pool2d/bind.h"
#include "winograd.h"

namespace alexkern::winograd {

inline Shape shape_of(const WideGeometry& of, bool bfloat16, Index M = 2) {
    const Index stride = of.stride[0], C = stride * stride * of.C / of.groups, R = (of.R + stride - 1) / stride;
    const Index K = of.K / of.groups;
    return {of.N, C, of.H, of.W, K, R, of.padding[0], of.padding[1], of.groups, stride, of.P(), of.Q(), M, bfloat16};
}

using Steps = Tuple<Index, 4>;  // of a group, a filter, a channel, a tap
using max_pool2d::PooledSize;

inline Weight weight_of(Address data, const Steps& steps, bool flipped) {
    return {pointer(data), steps[0], steps[1], steps[2], steps[3], flipped};
}

// The pooling of a convolution's images, one by one, on a thread.
inline max_pool2d::Forward one_image(const WideGeometry& of, const PooledSize& pooled, bool channels_last,
                                     bool bfloat16, bool relu, bool wide_offsets, Address output, Address offsets) {
    max_pool2d::Windows windows = max_pool2d::windows(of, pooled);
    windows.N = 1;
    return {.windows = windows,
            .channels_last = channels_last,
            .bfloat16 = bfloat16,
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
    module.def("winograd_pack", [](const WideGeometry& geometry, bool bfloat16, Index M, Address weight,
                                   const Steps& steps, bool flipped, Address filters, int threads) {
        const Pack call{shape_of(geometry, bfloat16, M), weight_of(weight, steps, flipped), pointer(filters), threads};
        const pybind11::gil_scoped_release released;
        on_isa([&](auto isa) { pack<isa>(call); });
    });
    module.def("winograd_workspace", [](const WideGeometry& geometry, bool bfloat16, Index M) {
        return on_isa([&](auto isa) { return workspace<isa>(shape_of(geometry, bfloat16, M), nullptr); });
    });
    module.def("winograd_pooled_workspace", [](const WideGeometry& geometry, bool bfloat16, Index M, bool channels_last,
                                               const WideGeometry& windows, const PooledSize& pooled) {
        const max_pool2d::Forward pool = one_image(windows, pooled, channels_last, bfloat16, false, false, 0, 0);
        return on_isa([&](auto isa) { return workspace<isa>(shape_of(geometry, bfloat16, M), &pool); });
    });
    module.def("winograd_convolve",
               [](const WideGeometry& geometry, bool bfloat16, Index M, bool channels_last, Address input, Address gate,
                  Address filters, Address weight, const Steps& steps, bool flipped, Address bias, bool relu,
                  Address output, Address workspace, int threads) {
                   const Weight from = weight_of(weight, steps, flipped);
                   const Convolution call{shape_of(geometry, bfloat16, M),
                                          channels_last,
                                          pointer(input),
                                          pointer(gate),
                                          pointer(filters),
                                          from.data ? &from : nullptr,
                                          pointer(bias),
                                          relu,
                                          pointer(output),
                                          pointer<float>(workspace),
                                          threads,
                                          nullptr};
                   const pybind11::gil_scoped_release released;
                   return on_isa([&](auto isa) { return convolve<isa>(call); });
               });
    module.def(
        "winograd_convolve_pooled",
        [](const WideGeometry& geometry, bool bfloat16, Index M, bool channels_last, Address input, Address filters,
           Address weight, const Steps& steps, Address bias, const WideGeometry& windows, const PooledSize& pooled,
           bool relu, bool wide_offsets, Address output, Address offsets, Address workspace, int threads) {
            const Weight from = weight_of(weight, steps, false);
            const max_pool2d::Forward pool =
                one_image(windows, pooled, channels_last, bfloat16, relu, wide_offsets, output, offsets);
            const Convolution call{shape_of(geometry, bfloat16, M),
                                   channels_last,
                                   pointer(input),
                                   nullptr,
                                   pointer(filters),
                                   from.data ? &from : nullptr,
                                   pointer(bias),
                                   false,
                                   nullptr,
                                   pointer<float>(workspace),
                                   threads,
                                   &pool};
            const pybind11::gil_scoped_release released;
            return on_isa([&](auto isa) { return convolve<isa>(call); });
        });
    module.def("winograd_weight_grad_workspace", [](const WideGeometry& geometry, bool bfloat16, int threads) {
        return on_isa([&](auto isa) { return weight_grad_workspace<isa>(shape_of(geometry, bfloat16), threads); });
    });
    module.def("winograd_weight_grad",
               [](const WideGeometry& geometry, bool bfloat16, bool channels_last, Address input, Address grad,
                  Address weight_grad, Address workspace, int threads) {
                   const WeightGrad call{
                       shape_of(geometry, bfloat16), channels_last, pointer(input), pointer(grad), pointer(weight_grad),
                       pointer<float>(workspace),    threads};
                   const pybind11::gil_scoped_release released;
                   return on_isa([&](auto isa) { return winograd::weight_grad<isa>(call); });
               });
});

}  // namespace alexkern::winograd
