// How a CUDA error reaches Python: as a RuntimeError that names the operator and the step that failed.
#pragma once

#include <stdexcept>

#include "ptx/errors.cuh"

namespace alexkern {

// Throws unless `status` is success; pybind11 turns the exception into a RuntimeError. `what` is the step, such as
// "counting the GPUs".
inline void check_cuda(cudaError_t status, const char* operator_name, const char* what) {
    if (status == cudaSuccess) return;
    throw std::runtime_error(std::string("alexkern.") + operator_name + ": " + what + ": " + ptx::take_error(status));
}

}  // namespace alexkern
