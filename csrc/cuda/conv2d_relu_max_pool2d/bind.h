#pragma once

#include "../conv2d_relu/bind.h"
#include "../max_pool2d/bind.h"
#include "conv2d_relu_max_pool2d.h"

namespace alexkern {

const Binding conv2d_relu_max_pool2d_binding([](pybind11::module_& module) {
    using namespace conv2d_relu_max_pool2d;
    module.attr("conv2d_relu_max_pool2d_first_tile") = kFirstTile;

    module.def("conv2d_relu_max_pool2d_forward",
               [](int element, bool tf32, const Geometry& geometry, Address input, int padded_C, Address weight,
                  Address bias, Address output, const Shape& shape, const Strides& strides, Address offsets,
                  const Three& plan, Address stream) {
                   forward({static_cast<Element>(element), tf32},
                           {{sizes_of(geometry, padded_C), pointer(input), pointer(weight), pointer(bias)},
                            image(output, shape, strides),
                            pointer(offsets),
                            {plan[0], plan[1], plan[2]}},
                           pointer<CUstream_st>(stream));
               });

    module.def("conv2d_relu_max_pool2d_backward",
               [](int element, bool wide_offsets, const Geometry& geometry, const Two& pooled_size, Address grad,
                  const Strides& grad_strides, Address offsets, const Strides& offset_strides, Address destination,
                  Address sums, int groups, int padded_C, int chunks, Address stream) {
                   backward({pool_params(element, wide_offsets, true, geometry, pooled_size, 0, {}, grad, grad_strides,
                                         offsets, offset_strides),
                             pointer(destination), pointer<float>(sums), groups, padded_C, chunks},
                            pointer<CUstream_st>(stream));
               });
});

}  // namespace alexkern
