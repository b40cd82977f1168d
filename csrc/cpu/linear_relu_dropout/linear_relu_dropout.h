// A linear layer of few rows and its gradients: input (N, C), weight (K, C), output (N, K), all contiguous. float32; or
// of the forward bfloat16, whose sums are float32's.
#pragma once

#include <cstdint>

#include "../isa.h"

namespace alexkern::linear_relu_dropout {

struct Sizes {
    std::int64_t N, C, K;  // at most MOST_ROWS rows, and nothing empty
};

constexpr int MOST_ROWS = 128;
constexpr int MOST_ROWS_BFLOAT16 = 4;

struct Forward {
    Sizes sizes;
    bool bfloat16;
    const void* input;
    const void* weight;
    const void* bias;  // or null
    bool relu;
    void* output;
    float* workspace;  // `workspace` floats
    int threads;
};

struct Backward {
    Sizes sizes;
    const float* grad;         // (N, K)
    const float* output;       // a gradient passes unless this is <= 0; or null:
    const std::uint8_t* mask;  // where its bit is set
    float scale;               // of what passes
    const float* input;        // for weight_grad alone
    const float* weight;       // for input_grad alone
    float* input_grad;         // null: not wanted, as the next two
    float* weight_grad;
    float* bias_grad;
    float* workspace;
    int threads;
};

template <Isa>
std::int64_t workspace(const Sizes& sizes, int threads);
template <Isa>
void forward(const Forward& call);
template <Isa>
void backward(const Backward& call);

}  // namespace alexkern::linear_relu_dropout
