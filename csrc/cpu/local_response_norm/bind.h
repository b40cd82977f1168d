#pragma once

#include <pybind11/pybind11.h>

#include "../../pointers.h"
#include "../kernels.h"
#include "../numbers.h"

namespace alexkern {

struct LocalResponseNormNumbers {
    std::int64_t N, C, L, stride_n, stride_c, stride_l, size;
};

inline void bind_local_response_norm(pybind11::module_& module) {
    const auto make = [](const pybind11::tuple& from) {
        const auto read = numbers<LocalResponseNormNumbers>(from);
        local_response_norm::Call call{};
        call.N = read.N, call.C = read.C, call.L = read.L;
        call.stride_n = read.stride_n, call.stride_c = read.stride_c, call.stride_l = read.stride_l;
        call.size = read.size;
        return call;
    };
    module.def("local_response_norm_workspace", [make](const pybind11::tuple& numbers) {
        return kernels().local_response_norm_workspace(make(numbers));
    });
    module.def(
        "local_response_norm", [make](const pybind11::tuple& numbers, float alpha, float beta, float k, Address input,
                                      Address grad, Address result, Address workspace, int threads) {
            local_response_norm::Call call = make(numbers);
            call.alpha = alpha, call.beta = beta, call.k = k;
            call.input = pointer<const float>(input), call.grad = pointer<const float>(grad);
            call.result = pointer<float>(result), call.workspace = pointer<float>(workspace), call.threads = threads;
            const pybind11::gil_scoped_release released;
            kernels().local_response_norm(call);
        });
}

}  // namespace alexkern
