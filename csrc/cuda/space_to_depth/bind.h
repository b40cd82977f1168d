// The launchers of space_to_depth for Python.
#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "../../pointers.h"
#include "space_to_depth.h"

namespace alexkern {

inline void bind_space_to_depth(pybind11::module_& module) {
    using namespace space_to_depth;
    using Channels = std::array<float, kMostChannels>;
    pybind11::dict sources;
    sources["float32"] = static_cast<int>(Source::float32);
    sources["float16"] = static_cast<int>(Source::float16);
    sources["bfloat16"] = static_cast<int>(Source::bfloat16);
    sources["uint8"] = static_cast<int>(Source::uint8);
    module.attr("space_to_depth_sources") = sources;
    module.def("space_to_depth_marks", &marks_per_line, "Marks of a line of so many pixels.");

    module.def("space_to_depth_relayout",
               [](int element, int from, Address source, const Four& sizes, const Four& strides, Address destination,
                  Address marks, const Pair& size, const Pair& padding, const Channels& scale, const Channels& shift,
                  Address stream) {
                   Params p{};
                   p.source = pointer(source);
                   p.destination = pointer(destination);
                   p.marks = pointer<std::uint8_t>(marks);
                   p.N = static_cast<int>(sizes[0]);
                   p.C = static_cast<int>(sizes[1]);
                   p.H = static_cast<int>(sizes[2]);
                   p.W = static_cast<int>(sizes[3]);
                   p.height = size[0];
                   p.width = size[1];
                   p.padding_H = padding[0];
                   p.padding_W = padding[1];
                   p.stride_N = strides[0];
                   p.stride_C = strides[1];
                   p.stride_H = strides[2];
                   p.stride_W = strides[3];
                   for (int c = 0; c < kMostChannels; ++c) {
                       p.scale[c] = scale[c];
                       p.shift[c] = shift[c];
                   }
                   relayout(static_cast<Source>(from), static_cast<Element>(element), p, pointer<CUstream_st>(stream));
               });

    module.def("space_to_depth_amend", [](int element, Address images, Address filters, Address bias, Address marks,
                                          Address output, const Four& sizes, const Four& strides, int channels,
                                          const Pair& kernel_size, bool relu, Address stream) {
        AmendParams p{};
        p.images = pointer(images);
        p.filters = pointer(filters);
        p.bias = pointer(bias);
        p.marks = pointer<std::uint8_t>(marks);
        p.output = pointer(output);
        p.N = static_cast<int>(sizes[0]);
        p.K = static_cast<int>(sizes[1]);
        p.P = static_cast<int>(sizes[2]);
        p.Q = static_cast<int>(sizes[3]);
        p.C = channels;
        p.R = kernel_size[0];
        p.S = kernel_size[1];
        p.stride_N = strides[0];
        p.stride_K = strides[1];
        p.stride_P = strides[2];
        p.stride_Q = strides[3];
        p.relu = relu;
        amend(static_cast<Element>(element), p, pointer<CUstream_st>(stream));
    });
}

}  // namespace alexkern
