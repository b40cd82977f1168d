#pragma once

#include "../../binding.h"
#include "dropout.h"

namespace alexkern::dropout {

const Binding binding([](pybind11::module_& module) {
    module.def("dropout", [](Address input, Address output, Address mask, std::int64_t count, Address seed,
                             std::uint64_t limit, float scale, bool relu, int threads) {
        const auto* drawn = pointer<const std::uint64_t>(seed);  // seed and offset
        const Call call{pointer<const float>(input),
                        pointer<float>(output),
                        pointer<std::uint8_t>(mask),
                        count,
                        drawn[0],
                        drawn[1],
                        limit,
                        scale,
                        relu,
                        threads};
        const pybind11::gil_scoped_release released;
        on_isa([&](auto isa) { run<isa>(call); });
    });
});

}  // namespace alexkern::dropout
