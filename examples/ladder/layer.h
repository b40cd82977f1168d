// The layer that every step computes, and where its tensors lie: all that the steps share.
//
//     conv   = relu(conv2d(x, w) + b)        fp16, sums in fp32, one rounding behind bias and ReLU
//     pooled = max_pool2d(conv, 3, 2)
//
// Stride 1, padding R / 2 and S / 2 (R and S are odd): conv is as large as x. C and K are multiples of 64, and no
// tensor has 2**31 elements.
#pragma once

#include "../../csrc/cuda/ptx/launch.cuh"
#include "../../csrc/cuda/ptx/numbers.cuh"

using ptx::float16;

struct Layer {
    int N, H, W, C, K, R, S;
    const float16 *x, *w, *b;  // (N, H, W, C), (K, R, S, C), (K)
    float16* rows;             // (GEMM_M, GEMM_K), for step 2
    float16* conv;             // (N, H, W, K)
    float16* pooled;           // (N, pooled_H, pooled_W, K)
    std::uint8_t* place;       // the same, from step 5 on

    __host__ __device__ int gemm_m() const { return N * H * W; }
    __host__ __device__ int gemm_k() const { return R * S * C; }
    __host__ __device__ int pooled_h() const { return (H - 1) / 2; }
    __host__ __device__ int pooled_w() const { return (W - 1) / 2; }
};

using Launcher = void (*)(const Layer& layer, cudaStream_t stream);
extern const Launcher launchers[];  // a step's kernels, in order; null behind the last

inline unsigned divide_up(int a, int b) { return static_cast<unsigned>((a + b - 1) / b); }
