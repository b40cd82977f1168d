#include "ptx/errors.cuh"
#include "runtime.h"

namespace alexkern {

int built_cuda_version() { return CUDART_VERSION; }

int driver_cuda_version() { return ptx::driver_version(); }

}  // namespace alexkern
