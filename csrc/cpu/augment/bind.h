#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>

#include "../../pointers.h"
#include "../kernels.h"
#include "../numbers.h"

namespace alexkern {

struct AugmentNumbers {
    std::int64_t N, H, W, P, Q, shown_p, shown_q, stride_n, stride_p;
};

inline void bind_augment(pybind11::module_& module) {
    const auto make = [](const pybind11::tuple& from) {
        const auto read = numbers<AugmentNumbers>(from);
        augment::Call call{};
        call.N = read.N, call.H = read.H, call.W = read.W, call.P = read.P, call.Q = read.Q;
        call.shown_p = read.shown_p, call.shown_q = read.shown_q;
        call.stride_n = read.stride_n, call.stride_p = read.stride_p;
        return call;
    };
    module.def("augment_workspace",
               [make](const pybind11::tuple& numbers) { return kernels().augment_workspace(make(numbers)); });
    module.def("augment", [make](const pybind11::tuple& numbers, Address images, Address parts, Address output,
                                 Address workspace, int threads, const std::array<float, 3>& scale,
                                 const std::array<float, 3>& shift) {
        augment::Call call = make(numbers);
        call.images = pointer<const std::uint8_t>(images), call.parts = pointer<const augment::Part>(parts);
        call.output = pointer<float>(output), call.workspace = pointer<float>(workspace), call.threads = threads;
        for (int c = 0; c < 3; ++c) call.scale[c] = scale[c], call.shift[c] = shift[c];
        const pybind11::gil_scoped_release released;
        kernels().augment(call);
    });
}

}  // namespace alexkern
