#pragma once

#include "../../binding.h"
#include "max_pool2d.h"

namespace alexkern::max_pool2d {

using PooledSize = Tuple<std::int64_t, 2>;  // P and Q: in ceil_mode not the geometry's

inline Windows windows(const WideGeometry& of, const PooledSize& pooled) {
    return {of.N, of.C,         of.H,         of.W,          pooled[0],     pooled[1],      of.R,
            of.S, of.stride[0], of.stride[1], of.padding[0], of.padding[1], of.dilation[0], of.dilation[1]};
}

const Binding binding([](pybind11::module_& module) {
    module.def("max_pool2d_workspace", [](const WideGeometry& geometry, const PooledSize& pooled) {
        return on_isa([&](auto isa) { return workspace<isa>(windows(geometry, pooled)); });
    });
    module.def("max_pool2d_forward",
               [](const WideGeometry& geometry, const PooledSize& pooled, bool channels_last, bool bfloat16, bool relu,
                  bool wide_offsets, Address input, Address output, Address offsets, Address workspace, int threads) {
                   const Forward call{windows(geometry, pooled),
                                      channels_last,
                                      bfloat16,
                                      relu,
                                      wide_offsets,
                                      pointer(input),
                                      pointer(output),
                                      pointer(offsets),
                                      pointer<float>(workspace),
                                      threads};
                   const pybind11::gil_scoped_release released;
                   on_isa([&](auto isa) { forward<isa>(call); });
               });
    module.def("max_pool2d_backward", [](const WideGeometry& geometry, const PooledSize& pooled, bool channels_last,
                                         bool bfloat16, bool wide_offsets, Address grad, Address offsets,
                                         Address input_grad, Address workspace, int threads) {
        const Backward call{windows(geometry, pooled),
                            channels_last,
                            bfloat16,
                            wide_offsets,
                            pointer(grad),
                            pointer(offsets),
                            pointer(input_grad),
                            pointer<float>(workspace),
                            threads};
        const pybind11::gil_scoped_release released;
        on_isa([&](auto isa) { backward<isa>(call); });
    });
});

}  // namespace alexkern::max_pool2d
