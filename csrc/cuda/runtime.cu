#include "errors.h"
#include "runtime.h"

namespace alexkern {

int built_cuda_version() { return CUDART_VERSION; }

int driver_cuda_version() { return ptx::driver_version(); }

int device_count() {
    int count = 0;
    const cudaError_t status = cudaGetDeviceCount(&count);
    if (status == cudaErrorNoDevice || status == cudaErrorInsufficientDriver) {
        cudaGetLastError();
        return 0;
    }
    check_cuda(status, "device_count", "counting the GPUs");
    return count;
}

DeviceProperties device_properties(int index) {
    const std::string what = "reading the properties of GPU " + std::to_string(index);
    cudaDeviceProp properties;
    check_cuda(cudaGetDeviceProperties(&properties, index), "device_properties", what.c_str());
    return {properties.name,
            properties.major,
            properties.minor,
            properties.multiProcessorCount,
            properties.totalGlobalMem,
            static_cast<std::size_t>(properties.l2CacheSize),
            properties.sharedMemPerBlockOptin};
}

}  // namespace alexkern
