// Local response normalisation of float32, and its gradient.
#pragma once

#include <cstdint>

#include "../isa.h"

namespace alexkern::local_response_norm {

// (N, C, L) of any strides in which channels or pixels lie side by side; the same for all three tensors.
struct Call {
    std::int64_t N, C, L, stride_n, stride_c, stride_l;
    std::int64_t size;
    float alpha, beta, k;  // alpha already divided by size
    const float* input;
    const float* grad;  // null: the output is wanted, else the input's gradient
    float* result;
    float* workspace;  // `workspace` floats a thread
    int threads;
};

template <Isa>
std::int64_t workspace(std::int64_t C, std::int64_t stride_c, std::int64_t size);
template <Isa>
void run(const Call& call);

}  // namespace alexkern::local_response_norm
