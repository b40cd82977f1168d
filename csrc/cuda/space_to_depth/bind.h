// The launchers of space_to_depth for Python.
#pragma once

#include <algorithm>

#include "../../binding.h"
#include "space_to_depth.h"

namespace alexkern {

const Binding space_to_depth_binding([](pybind11::module_& module) {
    using namespace space_to_depth;
    using Channels = Tuple<float, kMostChannels>;
    pybind11::dict sources;
    sources["float32"] = static_cast<int>(Source::float32);
    sources["float16"] = static_cast<int>(Source::float16);
    sources["bfloat16"] = static_cast<int>(Source::bfloat16);
    sources["uint8"] = static_cast<int>(Source::uint8);
    module.attr("space_to_depth_sources") = sources;
    module.def("space_to_depth_marks", &marks_per_line, "Marks of a line of so many pixels.");

    module.def("space_to_depth_relayout",
               [](int element, int from, Address source, const Shape& of, const Strides& strides, Address destination,
                  Address marks, const Two& size, const Two& padding, const Channels& scale, const Channels& shift,
                  Address stream) {
                   Params p{};
                   p.source = pointer(source);
                   p.destination = pointer(destination);
                   p.marks = pointer<std::uint8_t>(marks);
                   p.N = of[0];
                   p.C = of[1];
                   p.H = of[2];
                   p.W = of[3];
                   p.height = size[0];
                   p.width = size[1];
                   p.padding_H = padding[0];
                   p.padding_W = padding[1];
                   p.stride_N = strides[0];
                   p.stride_C = strides[1];
                   p.stride_H = strides[2];
                   p.stride_W = strides[3];
                   std::copy(scale.begin(), scale.end(), p.scale);
                   std::copy(shift.begin(), shift.end(), p.shift);
                   relayout(static_cast<Source>(from), static_cast<Element>(element), p, pointer<CUstream_st>(stream));
               });

    module.def(
        "space_to_depth_amend", [](int element, const Geometry& geometry, Address images, Address filters, Address bias,
                                   Address marks, Address output, const Strides& strides, Address stream) {
            const Sizes of = sizes_of(geometry, geometry.C);
            amend(static_cast<Element>(element),
                  {pointer(images), pointer(filters), pointer(bias), pointer<std::uint8_t>(marks), pointer(output),
                   of.N, of.C, of.K, of.P, of.Q, of.R, of.S, strides[0], strides[1], strides[2], strides[3]},
                  pointer<CUstream_st>(stream));
        });
});

}  // namespace alexkern
