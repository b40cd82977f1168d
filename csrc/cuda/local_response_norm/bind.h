#pragma once

#include "../../binding.h"
#include "local_response_norm.h"

namespace alexkern {

const Binding local_response_norm_binding([](pybind11::module_& module) {
    module.def("local_response_norm_needs_workspace", &local_response_norm::needs_workspace);
    module.def("local_response_norm", [](int element, Address input, Address grad, Address result, Address shared,
                                         std::int64_t N, int C, std::int64_t L, const Tuple<std::int64_t, 3>& strides,
                                         int size, float alpha, float beta, float k, Address stream) {
        local_response_norm::run(
            {static_cast<Element>(element), pointer(input), pointer(grad), pointer(result), pointer<float>(shared), N,
             L, C, strides[0], strides[1], strides[2], size, alpha, beta, k},
            pointer<CUstream_st>(stream));
    });
});

}  // namespace alexkern
