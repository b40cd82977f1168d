#pragma once

#include "../../binding.h"

namespace alexkern::dropout {

// As dropout.cu has it.
void run(int element, Address input, Address output, Address seed, std::int64_t count, std::uint64_t limit, float scale,
         Address stream);

const Binding binding([](pybind11::module_& module) { module.def("dropout", &run); });

}  // namespace alexkern::dropout
