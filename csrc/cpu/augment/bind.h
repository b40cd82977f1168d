#pragma once

#include "../../binding.h"
#include "augment.h"

namespace alexkern::augment {

const Binding binding([](pybind11::module_& module) {
    // N, H, W, P, Q; of P x Q the output has no more than shown_p, shown_q; its strides of n and p.
    using Numbers = Tuple<std::int64_t, 9>;
    const auto make = [](const Numbers& of) {
        return Call{of[0], of[1], of[2], of[3], of[4], of[5], of[6], of[7], of[8], {}, {}, {}, {}, {}, {}, {}};
    };
    module.def("augment_workspace", [make](const Numbers& numbers) {
        return on_isa([&](auto isa) { return workspace<isa>(make(numbers)); });
    });
    module.def(
        "augment", [make](const Numbers& numbers, Address images, Address parts, Address output, Address workspace,
                          int threads, const Tuple<float, 3>& scale, const Tuple<float, 3>& shift) {
            Call call = make(numbers);
            call.images = pointer<const std::uint8_t>(images), call.parts = pointer<const Part>(parts);
            call.output = pointer<float>(output), call.workspace = pointer<float>(workspace), call.threads = threads;
            for (int c = 0; c < 3; ++c) call.scale[c] = scale[c], call.shift[c] = shift[c];
            const pybind11::gil_scoped_release released;
            on_isa([&](auto isa) { run<isa>(call); });
        });
});

}  // namespace alexkern::augment
