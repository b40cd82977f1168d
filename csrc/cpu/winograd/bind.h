#pragma once

#include "../../binding.h"
#include "winograd.h"

namespace alexkern::winograd {

inline Shape shape_of(const WideGeometry& of) {
    return {of.N, of.C / of.groups, of.H, of.W, of.K / of.groups, of.R, of.padding[0], of.padding[1], of.groups};
}

const Binding binding([](pybind11::module_& module) {
    using Steps = Tuple<Index, 4>;  // of a group, a filter, a channel, a tap
    module.attr("winograd_filters") = FILTERS;
    module.def("winograd_workspace", [](const WideGeometry& geometry) {
        return on_isa([&](auto isa) { return workspace<isa>(shape_of(geometry)); });
    });
    module.def("winograd_pack", [](const WideGeometry& geometry, Address weight, const Steps& steps, bool flipped,
                                   Address filters, int threads) {
        const Weight of{pointer<const float>(weight), steps[0], steps[1], steps[2], steps[3], flipped};
        const Pack call{shape_of(geometry), of, pointer<float>(filters), threads};
        const pybind11::gil_scoped_release released;
        on_isa([&](auto isa) { pack<isa>(call); });
    });
    module.def("winograd_convolve",
               [](const WideGeometry& geometry, bool channels_last, Address input, Address gate, Address filters,
                  Address bias, bool relu, Address output, Address workspace, int threads) {
                   const Convolution call{shape_of(geometry),
                                          channels_last,
                                          pointer<const float>(input),
                                          pointer<const float>(gate),
                                          pointer<const float>(filters),
                                          pointer<const float>(bias),
                                          relu,
                                          pointer<float>(output),
                                          pointer<float>(workspace),
                                          threads};
                   const pybind11::gil_scoped_release released;
                   return on_isa([&](auto isa) { return convolve<isa>(call); });
               });
});

}  // namespace alexkern::winograd
