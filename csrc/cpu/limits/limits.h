// What the processor does at best, for the benchmark to measure kernels against: no library stands in between.
#pragma once

#include <cstdint>

namespace alexkern::limits {

// Multiply-adds in registers; `rounds` of them, eight times a thread.
struct Arithmetic {
    std::int64_t rounds;
    int threads;
};

// Reads `count` numbers, whole lines of the cache, and writes them past the caches where there is a `to`.
struct Stream {
    const float* from;
    float* to;  // or null; aligned to 64 bytes, as `from`
    std::int64_t count;
    int threads;
};

}  // namespace alexkern::limits
