// Addresses as Python has them: data_ptr(), a stream's handle.
#pragma once

#include <array>
#include <cstdint>

namespace alexkern {

using Address = std::uintptr_t;
using Pair = std::array<int, 2>;  // vertical, horizontal

template <typename T = void>
T* pointer(Address address) {
    return reinterpret_cast<T*>(address);
}

}  // namespace alexkern
