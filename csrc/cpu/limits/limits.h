// What the processor does at best, for the benchmark to measure kernels against: no library stands in between.
#pragma once

#include <cstdint>

#include "../isa.h"

namespace alexkern::limits {

// Multiply-adds in registers, `rounds` of them eight times a thread. Returns the operations.
template <Isa>
std::int64_t multiply_add(std::int64_t rounds, int threads);

// Reads numbers and writes them past the caches: whole lines of the cache.
template <Isa>
void stream_through(const float* from, float* to, std::int64_t count, int threads);

}  // namespace alexkern::limits
