#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "../../pointers.h"
#include "winograd.h"

namespace alexkern {

inline void bind_winograd(pybind11::module_& module) {
    using Numbers = std::array<int, 9>;  // N, C, H, W, K, R, padding, groups
    const auto shape = [](const Numbers& of) {
        return winograd::Shape{of[0], of[1], of[2], of[3], of[4], of[5], of[6], of[7], of[8]};
    };
    module.attr("winograd_multiples") = Pair{winograd::CHANNELS, winograd::FILTERS};
    module.def("winograd_is_supported", &winograd::is_supported);
    module.def("winograd_workspace", [shape](const Numbers& numbers) { return winograd::workspace(shape(numbers)); });
    module.def("winograd_pack", [shape](const Numbers& numbers, Address weight, Address filters) {
        winograd::pack(shape(numbers), pointer<const float>(weight), pointer<float>(filters));
    });
    module.def(
        "winograd_convolve",
        [shape](const Numbers& numbers, Address input, Address filters, Address bias, bool relu, Address output,
                Address workspace, int threads) {
            return winograd::convolve(shape(numbers), pointer<const float>(input), pointer<const float>(filters),
                                      pointer<const float>(bias), relu, pointer<float>(output),
                                      pointer<float>(workspace), threads);
        },
        pybind11::call_guard<pybind11::gil_scoped_release>());
}

}  // namespace alexkern
