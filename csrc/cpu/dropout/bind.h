#pragma once

#include "../../binding.h"
#include "dropout.h"

namespace alexkern::dropout {

const Binding binding([](pybind11::module_& module) {
    module.def("dropout", [](bool bfloat16, Address input, Address output, Address mask, std::int64_t count,
                             Address seed, std::uint64_t limit, float scale, bool relu, int threads) {
        const auto* drawn = pointer<const std::uint64_t>(seed);  // seed and offset
        const Call call{bfloat16, pointer(input), pointer(output), pointer<std::uint8_t>(mask),
                        count,    drawn[0],       drawn[1],        limit,
                        scale,    relu,           threads};
        const pybind11::gil_scoped_release released;
        on_isa([&](auto isa) { run<isa>(call); });
    });
    module.def("dropout_masked", [](bool bfloat16, Address grad, Address output, Address mask, std::int64_t count,
                                    float scale, int threads) {
        const Masked call{bfloat16, pointer(grad), pointer(output), pointer<const std::uint8_t>(mask),
                          count,    scale,         threads};
        const pybind11::gil_scoped_release released;
        on_isa([&](auto isa) { run<isa>(call); });
    });
});

}  // namespace alexkern::dropout
