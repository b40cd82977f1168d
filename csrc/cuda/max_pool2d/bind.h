#pragma once

#include "../../binding.h"
#include "max_pool2d.h"

namespace alexkern {

inline max_pool2d::Params pool_params(int element, bool wide_offsets, bool behind_relu, const Geometry& of,
                                      const Two& pooled_size, Address image, const Strides& image_strides,
                                      Address pooled, const Strides& pooled_strides, Address offsets,
                                      const Strides& offset_strides) {
    const auto strides = [](const Strides& of) { return max_pool2d::Strides{of[0], of[1], of[2], of[3]}; };
    return {static_cast<Element>(element),
            wide_offsets,
            behind_relu,
            of.N,
            of.C,
            of.H,
            of.W,
            pooled_size[0],
            pooled_size[1],
            {of.R, of.S, of.stride[0], of.stride[1], of.padding[0], of.padding[1], of.dilation[0], of.dilation[1]},
            pointer(image),
            pointer(pooled),
            pointer(offsets),
            strides(image_strides),
            strides(pooled_strides),
            strides(offset_strides)};
}

const Binding max_pool2d_binding([](pybind11::module_& module) {
    using max_pool2d::Params;
    const auto with_tensors = [](void (*run)(const Params&, Stream)) {
        return [run](int element, bool wide_offsets, bool behind_relu, const Geometry& geometry, const Two& pooled_size,
                     Address image, const Strides& image_strides, Address pooled, const Strides& pooled_strides,
                     Address offsets, const Strides& offset_strides, Address stream) {
            run(pool_params(element, wide_offsets, behind_relu, geometry, pooled_size, image, image_strides, pooled,
                            pooled_strides, offsets, offset_strides),
                pointer<CUstream_st>(stream));
        };
    };
    module.def("max_pool2d_windows_of_strip", &max_pool2d::windows_of_strip);
    module.def("max_pool2d_forward", with_tensors(max_pool2d::forward));
    module.def("max_pool2d_backward", with_tensors(max_pool2d::backward));
});

}  // namespace alexkern
