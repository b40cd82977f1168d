#pragma once

#include "../../binding.h"
#include "dropout.h"

namespace alexkern {

const Binding dropout_binding([](pybind11::module_& module) {
    module.def("dropout", [](int element, Address input, Address output, Address seed, std::int64_t count,
                             std::uint64_t limit, float scale, Address stream) {
        dropout::forward({static_cast<Element>(element), pointer(input), pointer(output),
                          pointer<const std::int64_t>(seed), count, limit, scale},
                         pointer<CUstream_st>(stream));
    });
});

}  // namespace alexkern
