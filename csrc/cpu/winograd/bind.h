#pragma once

#include "../../binding.h"
#include "winograd.h"

namespace alexkern::winograd {

inline Shape shape_of(const Geometry& of) {
    const int C = of.C / of.groups, K = of.K / of.groups;
    return {of.N, C, of.H, of.W, K, of.R, of.padding[0], of.padding[1], of.groups};
}

const Binding binding([](pybind11::module_& module) {
    module.attr("winograd_multiples") = pybind11::make_tuple(CHANNELS, FILTERS);
    module.def("winograd_is_supported", &is_supported);
    module.def("winograd_workspace", [](const Geometry& geometry) { return workspace(shape_of(geometry)); });
    module.def("winograd_pack", [](const Geometry& geometry, Address weight, Address filters) {
        pack(shape_of(geometry), pointer<const float>(weight), pointer<float>(filters));
    });
    module.def(
        "winograd_convolve",
        [](const Geometry& geometry, Address input, Address filters, Address bias, bool relu, Address output,
           Address workspace, int threads) {
            return convolve(shape_of(geometry), pointer<const float>(input), pointer<const float>(filters),
                            pointer<const float>(bias), relu, pointer<float>(output), pointer<float>(workspace),
                            threads);
        },
        pybind11::call_guard<pybind11::gil_scoped_release>());
});

}  // namespace alexkern::winograd
