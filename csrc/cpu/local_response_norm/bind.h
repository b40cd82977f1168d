#pragma once

#include "../../binding.h"
#include "local_response_norm.h"

namespace alexkern::local_response_norm {

const Binding binding([](pybind11::module_& module) {
    module.def("local_response_norm_workspace", [](std::int64_t C, std::int64_t stride_c, std::int64_t size) {
        return on_isa([&](auto isa) { return workspace<isa>(C, stride_c, size); });
    });
    module.def("local_response_norm",
               [](std::int64_t N, std::int64_t C, std::int64_t L, const Tuple<std::int64_t, 3>& strides,
                  std::int64_t size, float alpha, float beta, float k, bool bfloat16, Address input, Address grad,
                  Address result, Address workspace, int threads) {
                   const Call call{N,
                                   C,
                                   L,
                                   strides[0],
                                   strides[1],
                                   strides[2],
                                   size,
                                   alpha,
                                   beta,
                                   k,
                                   bfloat16,
                                   pointer(input),
                                   pointer(grad),
                                   pointer(result),
                                   pointer<float>(workspace),
                                   threads};
                   const pybind11::gil_scoped_release released;
                   on_isa([&](auto isa) { run<isa>(call); });
               });
});

}  // namespace alexkern::local_response_norm
