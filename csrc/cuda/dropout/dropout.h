// dropout: y = x * scale where Philox keeps the element, x * 0 where it does not. Backward is the same on the gradient.
#pragma once

#include <cstdint>

#include "../elements.h"

namespace alexkern::dropout {

struct Params {
    Element element;
    const void* input;         // [count], dense
    void* output;              // [count], in the same order; may be the input
    const std::int64_t* seed;  // [2]: seed and offset
    std::int64_t count;
    std::uint64_t limit;  // floor(p * 2**32)
    float scale;          // 1 / (1 - p), and 0 for p = 1
};

void forward(const Params& params, Stream stream);

}  // namespace alexkern::dropout
