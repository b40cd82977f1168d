// What the binding and the launchers share: element types by name, and a stream without CUDA's headers.
#pragma once

#include <stdexcept>

struct CUstream_st;

namespace alexkern {

using Stream = CUstream_st*;  // cudaStream_t

// The type of a tensor's elements; the Python side reads these codes from the module.
enum class Element : int { float32, float16, bfloat16 };

}  // namespace alexkern
