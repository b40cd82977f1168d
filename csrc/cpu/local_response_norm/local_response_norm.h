// Local response normalisation, and its gradient.
#pragma once

#include <cstdint>

#include "../isa.h"

namespace alexkern::local_response_norm {

// (N, C, L) of any strides in which channels or pixels lie side by side; the same for all three tensors.
struct Call {
    std::int64_t N, C, L, stride_n, stride_c, stride_l;
    std::int64_t size;
    float alpha, beta, k;  // alpha already divided by size
    bool bfloat16;         // else float32: the next three
    const void* input;
    const void* grad;  // null: the output is wanted, else the input's gradient
    void* result;
    float* workspace;  // `workspace` floats a thread
    int threads;
};

template <Isa>
std::int64_t workspace(std::int64_t C, std::int64_t stride_c, std::int64_t size);
template <Isa>
void run(const Call& call);

}  // namespace alexkern::local_response_norm
