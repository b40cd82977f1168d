// How much of a product's operands stays in a processor's own cache.
#pragma once

#include <unistd.h>

#include <cstdint>

namespace alexkern::ALEXKERN_ISA {

// Of the L2 cache; 1 MiB where the system does not say, or has less.
inline std::int64_t l2_bytes() {
    std::int64_t bytes = 0;
#if defined(_SC_LEVEL2_CACHE_SIZE)
    bytes = sysconf(_SC_LEVEL2_CACHE_SIZE);  // 0 or -1 where it is not known
#endif
    const std::int64_t least = std::int64_t(1) << 20;
    return bytes < least ? least : bytes;
}

}  // namespace alexkern::ALEXKERN_ISA
