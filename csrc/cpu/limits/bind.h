#pragma once

#include "../../binding.h"
#include "limits.h"

namespace alexkern::limits {

const Binding binding([](pybind11::module_& module) {
    module.def("multiply_add", [](std::int64_t rounds, int threads) {
        const pybind11::gil_scoped_release released;
        return on_isa([&](auto isa) { return multiply_add<isa>(rounds, threads); });
    });
    module.def("stream_through", [](Address from, Address to, std::int64_t count, int threads) {
        const auto* read = pointer<const float>(from);
        auto* written = pointer<float>(to);
        const pybind11::gil_scoped_release released;
        on_isa([&](auto isa) { stream_through<isa>(read, written, count, threads); });
    });
});

}  // namespace alexkern::limits
