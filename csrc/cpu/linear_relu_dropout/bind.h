#pragma once

#include <pybind11/pybind11.h>

#include "../../pointers.h"
#include "../kernels.h"
#include "../numbers.h"

namespace alexkern {

inline void bind_linear_relu_dropout(pybind11::module_& module) {
    using namespace linear_relu_dropout;
    module.attr("linear_most_rows") = MOST_ROWS;
    module.def("linear_relu_dropout_workspace", [](const pybind11::tuple& sizes, int threads) {
        return kernels().linear_relu_dropout_workspace(numbers<Sizes>(sizes), threads);
    });
    module.def("linear_relu_dropout_forward",
               [](const pybind11::tuple& sizes, Address input, Address weight, Address bias, bool relu, Address output,
                  Address workspace, int threads) {
                   const Forward call{numbers<Sizes>(sizes),
                                      pointer<const float>(input),
                                      pointer<const float>(weight),
                                      pointer<const float>(bias),
                                      relu,
                                      pointer<float>(output),
                                      pointer<float>(workspace),
                                      threads};
                   const pybind11::gil_scoped_release released;
                   kernels().linear_relu_dropout_forward(call);
               });
    module.def(
        "linear_relu_dropout_backward",
        [](const pybind11::tuple& sizes, Address grad, Address output, Address mask, float scale, Address input,
           Address weight, Address input_grad, Address weight_grad, Address bias_grad, Address workspace, int threads) {
            const Backward call{numbers<Sizes>(sizes),
                                pointer<const float>(grad),
                                pointer<const float>(output),
                                pointer<const std::uint8_t>(mask),
                                scale,
                                pointer<const float>(input),
                                pointer<const float>(weight),
                                pointer<float>(input_grad),
                                pointer<float>(weight_grad),
                                pointer<float>(bias_grad),
                                pointer<float>(workspace),
                                threads};
            const pybind11::gil_scoped_release released;
            kernels().linear_relu_dropout_backward(call);
        });
}

}  // namespace alexkern
