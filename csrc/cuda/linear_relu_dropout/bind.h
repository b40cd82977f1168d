#pragma once

#include "../../binding.h"
#include "linear_relu_dropout.h"

namespace alexkern {

const Binding linear_relu_dropout_binding([](pybind11::module_& module) {
    module.def("linear_relu_dropout_forward", [](int element, Address values, Address mask, Address seed,
                                                 std::int64_t count, std::uint64_t limit, float scale, Address stream) {
        linear_relu_dropout::forward({static_cast<Element>(element), pointer(values), pointer<std::uint8_t>(mask),
                                      pointer<const std::int64_t>(seed), count, limit, scale},
                                     pointer<CUstream_st>(stream));
    });
    module.def("linear_relu_dropout_few_rows", [](int element, Address input, std::int64_t input_stride, Address weight,
                                                  std::int64_t weight_stride, Address bias, Address output, int M,
                                                  int K, int C, Address stream) {
        linear_relu_dropout::few_rows(
            static_cast<Element>(element),
            {pointer(input), pointer(weight), pointer(bias), pointer(output), input_stride, weight_stride, M, K, C},
            pointer<CUstream_st>(stream));
    });
    module.def("linear_relu_dropout_sum",
               [](int element, Address partials, int splits, Address bias, Address output, std::int64_t count, int K,
                  Address mask, Address seed, std::uint64_t limit, float scale, Address stream) {
                   linear_relu_dropout::sum(
                       static_cast<Element>(element),
                       {pointer<const float>(partials), pointer(bias), pointer(output), pointer<std::uint8_t>(mask),
                        pointer<const std::int64_t>(seed), count, splits, K, limit, scale},
                       pointer<CUstream_st>(stream));
               });
    module.def("linear_relu_dropout_backward", [](int element, Address grad, Address output, Address mask,
                                                  Address masked, std::int64_t count, float scale, Address stream) {
        linear_relu_dropout::backward({static_cast<Element>(element), pointer(masked), pointer(grad), pointer(output),
                                       pointer<const std::uint8_t>(mask), count, scale},
                                      pointer<CUstream_st>(stream));
    });
});

}  // namespace alexkern
