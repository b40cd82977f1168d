#pragma once

#include "../../binding.h"
#include "linear_relu_dropout.h"

namespace alexkern::linear_relu_dropout {

const Binding binding([](pybind11::module_& module) {
    using Numbers = Tuple<std::int64_t, 3>;
    module.attr("linear_most_rows") = MOST_ROWS;
    module.attr("linear_most_rows_bfloat16") = MOST_ROWS_BFLOAT16;
    module.def("linear_relu_dropout_workspace", [](const Numbers& sizes, int threads) {
        return on_isa([&](auto isa) { return workspace<isa>({sizes[0], sizes[1], sizes[2]}, threads); });
    });
    module.def("linear_relu_dropout_forward",
               [](const Numbers& sizes, bool bfloat16, Address input, Address weight, Address bias, bool relu,
                  Address output, Address workspace, int threads) {
                   const Forward call{{sizes[0], sizes[1], sizes[2]},
                                      bfloat16,
                                      pointer<const void>(input),
                                      pointer<const void>(weight),
                                      pointer<const void>(bias),
                                      relu,
                                      pointer<void>(output),
                                      pointer<float>(workspace),
                                      threads};
                   const pybind11::gil_scoped_release released;
                   on_isa([&](auto isa) { forward<isa>(call); });
               });
    module.def(
        "linear_relu_dropout_backward",
        [](const Numbers& sizes, Address grad, Address output, Address mask, float scale, Address input, Address weight,
           Address input_grad, Address weight_grad, Address bias_grad, Address workspace, int threads) {
            const Backward call{{sizes[0], sizes[1], sizes[2]},
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
            on_isa([&](auto isa) { backward<isa>(call); });
        });
});

}  // namespace alexkern::linear_relu_dropout
