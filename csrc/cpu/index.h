// Counts and places of numbers, in 64 bits: a tensor may have over 2**31. In the namespace of each instruction set, for
// the reason that simd.h gives.
#pragma once

#include <cstdint>

namespace alexkern::ALEXKERN_ISA {

using Index = std::int64_t;

inline Index smaller(Index a, Index b) { return a < b ? a : b; }
inline Index larger(Index a, Index b) { return a < b ? b : a; }
inline Index ceil_div(Index a, Index b) { return (a + b - 1) / b; }  // of a >= 0
inline Index padded(Index count, Index unit) { return ceil_div(count, unit) * unit; }

}  // namespace alexkern::ALEXKERN_ISA
