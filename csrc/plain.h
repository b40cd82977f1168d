// What Python hands over, in types that need nothing of Python's: arguments.h reads them.
#pragma once

#include <array>
#include <cstdint>

namespace alexkern {

using Address = std::uintptr_t;  // data_ptr(), a stream's handle

template <typename T = void>
T* pointer(Address address) {
    return reinterpret_cast<T*>(address);
}

// Numbers of a Python tuple, and of nothing else: pybind11's own std::array takes any sequence, ten times as slowly.
template <typename T, std::size_t kCount>
struct Tuple : std::array<T, kCount> {};

}  // namespace alexkern
