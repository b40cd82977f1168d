// Dropout of a dense tensor: alexkern/backends/torch/philox.py says which elements are kept.
#pragma once

#include <cstdint>

#include "../isa.h"

namespace alexkern::dropout {

struct Call {
    bool bfloat16;  // else float32
    const void* input;
    void* output;        // input itself, or apart from it
    std::uint8_t* mask;  // a bit an element: neither clipped by the ReLU nor dropped; or null
    std::int64_t count;
    std::uint64_t seed, offset;
    std::uint64_t limit;  // floor(p * 2**32): kept where the word is not below it
    float scale;          // 1 / (1 - p), and 0 for p = 1
    bool relu;            // of the input, as it is read
    int threads;
};

template <Isa>
void run(const Call& call);

// The gradient where a mask of such a call lets it pass, times scale.
struct Masked {
    bool bfloat16;  // else float32
    const void* grad;
    void* output;  // dense as grad
    const std::uint8_t* mask;
    std::int64_t count;
    float scale;
    int threads;
};

template <Isa>
void run(const Masked& call);

}  // namespace alexkern::dropout
