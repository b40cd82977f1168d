#pragma once

#include "../conv2d_relu/bind.h"
#include "../max_pool2d/bind.h"
#include "conv2d_relu_max_pool2d.h"

namespace alexkern {

inline void bind_conv2d_relu_max_pool2d(pybind11::module_& module) {
    using namespace conv2d_relu_max_pool2d;
    module.attr("conv2d_relu_max_pool2d_first_tile") = kFirstTile;

    module.def("conv2d_relu_max_pool2d_forward",
               [](int element, bool tf32, Address input, const Pair& input_size, int C, Address weight, int K,
                  Address bias, Address output, const Four& sizes, const Four& strides, Address offsets,
                  const Pair& kernel_size, const Pair& stride, const Pair& padding, const Pair& dilation, int groups,
                  const std::array<int, 3>& plan, Address cuda_stream) {
                   ForwardParams p{};
                   set_convolution(p, input, input_size, C, weight, K, bias, kernel_size, stride, padding, dilation,
                                   groups);
                   p.output = image(output, sizes, strides);
                   p.offsets = pointer(offsets);
                   p.plan = {plan[0], plan[1], plan[2]};
                   forward({static_cast<Element>(element), tf32}, p, pointer<CUstream_st>(cuda_stream));
               });

    module.def("conv2d_relu_max_pool2d_backward",
               [](int element, bool wide_offsets, const std::array<int, 4>& image_shape, const Pair& pooled_size,
                  const std::array<int, 8>& window, Address grad, const Four& grad_strides, Address offsets,
                  Address output, const Four& saved_strides, Address destination, Address sums, int groups,
                  int padded_C, int chunks, Address stream) {
                   backward({pool_params(element, wide_offsets, image_shape, pooled_size, window, 0, {}, grad,
                                         grad_strides, offsets, saved_strides),
                             pointer(output), pointer(destination), pointer<float>(sums), groups, padded_C, chunks},
                            pointer<CUstream_st>(stream));
               });
}

}  // namespace alexkern
