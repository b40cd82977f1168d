// Addresses as Python has them (data_ptr(), a stream's handle), and shapes and strides as tuples.
#pragma once

#include <array>
#include <cstdint>

namespace alexkern {

using Address = std::uintptr_t;
using Four = std::array<std::int64_t, 4>;  // of N, C, H, W
using Pair = std::array<int, 2>;           // vertical, horizontal

template <typename T = void>
T* pointer(Address address) {
    return reinterpret_cast<T*>(address);
}

}  // namespace alexkern
