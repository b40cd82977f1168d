#pragma once

#include <pybind11/pybind11.h>

#include "../../pointers.h"
#include "../kernels.h"
#include "../numbers.h"

namespace alexkern {

inline void bind_max_pool2d(pybind11::module_& module) {
    using max_pool2d::Windows;
    module.def("max_pool2d_workspace", [](const pybind11::tuple& windows) {
        return kernels().max_pool2d_workspace(numbers<Windows>(windows));
    });
    module.def("max_pool2d_forward",
               [](const pybind11::tuple& windows, bool channels_last, bool relu, bool wide_offsets, Address input,
                  Address output, Address offsets, Address workspace, int threads) {
                   const max_pool2d::Forward call{numbers<Windows>(windows),
                                                  channels_last,
                                                  relu,
                                                  wide_offsets,
                                                  pointer<const float>(input),
                                                  pointer<float>(output),
                                                  pointer(offsets),
                                                  pointer<float>(workspace),
                                                  threads};
                   const pybind11::gil_scoped_release released;
                   kernels().max_pool2d_forward(call);
               });
    module.def("max_pool2d_backward", [](const pybind11::tuple& windows, bool channels_last, bool wide_offsets,
                                         Address grad, Address offsets, Address input_grad, int threads) {
        const max_pool2d::Backward call{
            numbers<Windows>(windows),  channels_last, wide_offsets, pointer<const float>(grad), pointer(offsets),
            pointer<float>(input_grad), threads};
        const pybind11::gil_scoped_release released;
        kernels().max_pool2d_backward(call);
    });
}

}  // namespace alexkern
