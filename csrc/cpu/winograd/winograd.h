// Convolution with bias and ReLU on the host's processor, for 3x3 and 5x5 filters in 4/9 and 9/25 of the products.
#pragma once

#include <cstdint>

namespace alexkern::winograd {

struct Shape {
    int N, C, H, W, K;  // C and K of one group
    int R;              // of square filters: 3 or 5
    int padding_h, padding_w, groups;
};

inline constexpr int CHANNELS = 16;  // C is a multiple of it
inline constexpr int FILTERS = 32;   // and K of this

// Whether this processor has the instructions (AVX-512), and the module was built with OpenMP.
bool is_supported();

// weight, (groups K, C, R, R) and dense, becomes filters: (R + 1)^2 C groups K floats, at addresses divisible by 64.
void pack(const Shape& shape, const float* weight, float* filters);

// How many floats `convolve` needs for each thread.
std::int64_t workspace(const Shape& shape);

// output = convolution of input + bias, then ReLU if `relu`. input is (N, H, W, groups C), output (N, P, Q, groups K),
// both dense; workspace's address is divisible by 64. Returns false if a number was not finite before the ReLU: where
// an infinity is in a tile, the other outputs of the tile are not the convolution's.
bool convolve(const Shape& shape, const float* input, const float* filters, const float* bias, bool relu, float* output,
              float* workspace, int threads);

}  // namespace alexkern::winograd
