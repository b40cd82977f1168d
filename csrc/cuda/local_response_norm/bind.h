#pragma once

#include "../../binding.h"

namespace alexkern::local_response_norm {

// As local_response_norm.cu has them.
bool needs_workspace(int size, float beta);
void run(int element, Address input, Address grad, Address result, Address shared, std::int64_t N, int C,
         std::int64_t L, const Tuple<std::int64_t, 3>& strides, int size, float alpha, float beta, float k,
         Address stream);

const Binding binding([](pybind11::module_& module) {
    module.def("local_response_norm_needs_workspace", &needs_workspace);
    module.def("local_response_norm", &run);
});

}  // namespace alexkern::local_response_norm
