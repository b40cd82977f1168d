// How a CUDA error reaches Python: as a RuntimeError that names the operator and the step that failed.
#pragma once

#include <cuda_runtime_api.h>

#include <stdexcept>
#include <string>

namespace alexkern {

// "13.0" from CUDA's own 13000.
inline std::string version_text(int version) {
    return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

// The newest CUDA version that the driver here supports, as 13000 for 13.0, and 0 where there is no driver.
inline int driver_version() {
    int version = 0;
    return cudaDriverGetVersion(&version) == cudaSuccess ? version : 0;
}

// Throws unless `status` is success; pybind11 turns the exception into a RuntimeError. `what` is the step, such as
// "launching the forward kernel".
inline void check_cuda(cudaError_t status, const char* operator_name, const char* what) {
    if (status == cudaSuccess) return;
    // The runtime keeps the error for the next call that asks, which would blame an innocent launch.
    cudaGetLastError();
    std::string message = std::string("alexkern.") + operator_name + ": " + what + ": " + cudaGetErrorString(status) +
                          " (" + cudaGetErrorName(status) + ")";
    if (status == cudaErrorInsufficientDriver) {
        const int driver = driver_version();
        message += "; needed is a driver for CUDA " + version_text(CUDART_VERSION) + ", here is " +
                   (driver ? "one for CUDA " + version_text(driver) : std::string("none"));
    }
    throw std::runtime_error(message);
}

}  // namespace alexkern
