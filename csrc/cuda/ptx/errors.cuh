// What a CUDA error says, with what is needed and what is here where the driver is too old.
#pragma once

#include <cuda_runtime_api.h>

#include <string>

namespace ptx {

// "13.0" from CUDA's own 13000.
inline std::string version_text(int version) {
    return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

// The newest CUDA version that the driver here supports, as 13000 for 13.0, and 0 where there is no driver.
inline int driver_version() {
    int version = 0;
    return cudaDriverGetVersion(&version) == cudaSuccess ? version : 0;
}

// Clears the error too: the runtime keeps it for the next call that asks, which would blame an innocent launch.
inline std::string take_error(cudaError_t status) {
    cudaGetLastError();
    std::string text = std::string(cudaGetErrorString(status)) + " (" + cudaGetErrorName(status) + ")";
    if (status == cudaErrorInsufficientDriver) {
        const int driver = driver_version();
        text += "; needed is a driver for CUDA " + version_text(CUDART_VERSION) + ", here is " +
                (driver ? "one for CUDA " + version_text(driver) : std::string("none"));
    }
    return text;
}

}  // namespace ptx
