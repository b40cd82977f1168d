// What the CUDA runtime says of this machine, in plain types: the binding needs no CUDA header.
#pragma once

#include <cstddef>
#include <string>

namespace alexkern {

struct DeviceProperties {
    std::string name;
    int major, minor;                     // compute capability
    int multiprocessors;                  // SMs
    std::size_t total_memory;             // bytes
    std::size_t l2_cache;                 // bytes
    std::size_t shared_memory_per_block;  // bytes, with the opt-in
};

int built_cuda_version();   // 13000 for CUDA 13.0
int driver_cuda_version();  // the newest that the driver supports, in the same form; 0 where there is no driver
int device_count();         // 0 also where the driver is missing or too old
DeviceProperties device_properties(int index);

}  // namespace alexkern
