#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "../../pointers.h"
#include "max_pool2d.h"

namespace alexkern {

inline max_pool2d::Params pool_params(int element, bool wide_offsets, const std::array<int, 4>& image_shape,
                                      const Pair& pooled_size, const std::array<int, 8>& window, Address image,
                                      const Four& image_strides, Address pooled, const Four& pooled_strides,
                                      Address offsets, const Four& offset_strides) {
    const auto [N, C, H, W] = image_shape;
    const auto [R, S, stride_h, stride_w, padding_h, padding_w, dilation_h, dilation_w] = window;
    const auto strides = [](const Four& of) { return max_pool2d::Strides{of[0], of[1], of[2], of[3]}; };
    return {static_cast<Element>(element),
            wide_offsets,
            N,
            C,
            H,
            W,
            pooled_size[0],
            pooled_size[1],
            {R, S, stride_h, stride_w, padding_h, padding_w, dilation_h, dilation_w},
            pointer(image),
            pointer(pooled),
            pointer(offsets),
            strides(image_strides),
            strides(pooled_strides),
            strides(offset_strides)};
}

inline void bind_max_pool2d(pybind11::module_& module) {
    using max_pool2d::Params;
    const auto with_tensors = [](void (*run)(const Params&, Stream)) {
        return [run](int element, bool wide_offsets, const std::array<int, 4>& image_shape, const Pair& pooled_size,
                     const std::array<int, 8>& window, Address image, const Four& image_strides, Address pooled,
                     const Four& pooled_strides, Address offsets, const Four& offset_strides, Address stream) {
            run(pool_params(element, wide_offsets, image_shape, pooled_size, window, image, image_strides, pooled,
                            pooled_strides, offsets, offset_strides),
                pointer<CUstream_st>(stream));
        };
    };
    module.def("max_pool2d_windows_of_strip", &max_pool2d::windows_of_strip);
    module.def("max_pool2d_forward", with_tensors(max_pool2d::forward));
    module.def("max_pool2d_backward", with_tensors(max_pool2d::backward));
}

}  // namespace alexkern
