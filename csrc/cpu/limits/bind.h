#pragma once

#include <pybind11/pybind11.h>

#include "../../pointers.h"
#include "../kernels.h"

namespace alexkern {

inline void bind_limits(pybind11::module_& module) {
    module.def("multiply_add", [](std::int64_t rounds, int threads) {
        const pybind11::gil_scoped_release released;
        return kernels().multiply_add({rounds, threads});
    });
    module.def("stream_through", [](Address from, Address to, std::int64_t count, int threads) {
        const limits::Stream call{pointer<const float>(from), pointer<float>(to), count, threads};
        const pybind11::gil_scoped_release released;
        kernels().stream_through(call);
    });
}

}  // namespace alexkern
