// linear_relu_dropout: what stands around matrix products, in one pass each, and the product of a few rows.
#pragma once

#include <cstdint>

#include "../elements.h"

namespace alexkern::linear_relu_dropout {

struct ForwardParams {
    Element element;
    void* values;              // [count]: linear's output, replaced by the result
    std::uint8_t* mask;        // [count / 8], rounded up: bit i % 8 of byte i / 8 is set where element i lets a
                               // gradient pass; or null, and wherever nothing is dropped
    const std::int64_t* seed;  // [2]: seed and offset; null where nothing is dropped
    std::int64_t count;
    std::uint64_t limit;  // floor(p * 2**32)
    float scale;          // 1 / (1 - p), and 0 for p = 1
};

// values = relu(values) * (scale where kept, 0 where dropped)
void forward(const ForwardParams& params, Stream stream);

struct BackwardParams {
    Element element;
    void* masked;              // [count], written (may be `grad`)
    const void* grad;          // [count]
    const void* output;        // [count]: what forward left, where nothing was dropped, else null
    const std::uint8_t* mask;  // forward's, where something was, else null
    std::int64_t count;
    float scale;
};

// masked = 0 where the mask says so, or output <= 0, else grad * scale. A NaN output lets its gradient pass.
void backward(const BackwardParams& params, Stream stream);

// linear's output (M, K), dense, for up to 16 rows of 16-bit values, C a multiple of 8.
struct FewRowsParams {
    const void* input;                         // (M, C)
    const void* weight;                        // (K, C)
    const void* bias;                          // (K), or null
    void* output;                              // (M, K)
    std::int64_t input_stride, weight_stride;  // of a row, in elements
    int M, K, C;
};
void few_rows(Element element, const FewRowsParams& params, Stream stream);

// What csrc/cuda/sm90 leaves where it splits GEMM_K, to the result (M, K), dense, of 16-bit values, K a multiple
// of 8.
struct SumParams {
    const float* partials;     // (splits, M, K)
    const void* bias;          // (K), or null
    void* output;              // (M, K)
    std::uint8_t* mask;        // as ForwardParams has it
    const std::int64_t* seed;  // [2]: seed and offset; null where nothing is dropped
    std::int64_t count;        // M K
    int splits, K;
    std::uint64_t limit;  // floor(p * 2**32)
    float scale;          // 1 / (1 - p), and 0 for p = 1
};
void sum(Element element, const SumParams& params, Stream stream);

}  // namespace alexkern::linear_relu_dropout
