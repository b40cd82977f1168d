// What the CUDA runtime says of itself, in plain types: the binding needs no CUDA header.
#pragma once

namespace alexkern {

int built_cuda_version();   // 13000 for CUDA 13.0
int driver_cuda_version();  // the newest that the driver supports, in the same form; 0 where there is no driver

}  // namespace alexkern
