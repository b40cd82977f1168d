// Step 3: implicit. The matrix is never written: a block gathers the part of it that it needs into shared memory.
//
// sums[m, k] += the sum over 64 channels c of a[m, c] * b[k, c], once for every step of GEMM_K
// conv[m, k] = relu(bias[k] + sums[m, k])
//
// A tile of 64 pixels x 64 filters a block; a step of GEMM_K is 64 channels of one tap:
//
//                64 filters
//            +---------------+
//            |  b: 64 x 64   |   w[k, tap, c ...]
//            +---------------+
// +--------+ +---------------+
// | a: 64  | | sums: 64 x 64 |   16 a thread, in registers
// | x 64   | |               |
// +--------+ +---------------+   a: x[pixel moved by the tap, c ...], or zeros
//
//     thread of each output in a 64 x 64 tile; a thread has 4 x 4 of them, every sixteenth:
//        filter    0    1    2   15   16   17
//     pixel  0     0    1    2   15    0    1
//     pixel  1    16   17   18   31   16   17
//     pixel  2    32   33   34   47   32   33
//     pixel 15   240  241  242  255  240  241
//     pixel 16     0    1    2   15    0    1
//     pixel 17    16   17   18   31   16   17
//     tile 5, step 7, thread 77 fetches, for pixel 329 (p = 12, q = 5) and tap (1, 2), channels 40 to 47 of (11, 5);
//     it multiplies rows 4, 20, 36, 52 by filters 13, 29, 45, 61
//
// New since step 2: what was im2col_kernel is now the gather of a step, into shared memory, where sixteen threads read
// each number again. A block asks memory for 2 x 64 x 64 halves and makes 64 x 64 x 64 multiply-adds of them: 1/16
// byte each in place of 4. Two barriers a step: nobody multiplies before the tiles are whole, and nobody overwrites
// what another still reads.
//
// Exercise: with kPitch = 64, in which of the 32 banks (4 bytes each) do the sixteen filters of a half warp lie?
#include "layer.h"

namespace {

constexpr int kThreads = 256;
constexpr int kBlock = 64;          // of M, N and K: 64 pixels, 64 filters, 64 channels of a tap
constexpr int kPitch = kBlock + 1;  // floats from row to row: 16 rows of a column lie in 16 banks
constexpr int kTile = kBlock * kPitch;

// Eight channels, or zeros, to a row of a tile.
__device__ __forceinline__ void put(float* to, bool inside, const float16* from) {
    const uint4 vector = inside ? *reinterpret_cast<const uint4*>(from) : make_uint4(0, 0, 0, 0);
    const unsigned pairs[] = {vector.x, vector.y, vector.z, vector.w};
    for (int i = 0; i < 4; ++i) {
        const float2 two = ptx::unpack<float16>(pairs[i]);
        to[2 * i] = two.x;
        to[2 * i + 1] = two.y;
    }
}

__global__ void __launch_bounds__(kThreads) convolve_kernel(Layer v) {
    float* const a = ptx::dynamic_shared_memory<float>();  // (64 pixels, 64 channels)
    float* const b = a + kTile;                            // (64 filters, 64 channels)
    const int block_m = blockIdx.y * kBlock, block_n = blockIdx.x * kBlock;
    const int down = threadIdx.x / 16, across = threadIdx.x % 16;  // its outputs: every sixteenth row and column
    float sum[4][4] = {};
    for (int step = 0; step < v.gemm_k() / kBlock; ++step) {
        const int tap = step / (v.C / kBlock), c = step % (v.C / kBlock) * kBlock;
        for (int i = threadIdx.x; i < kBlock * 8; i += kThreads) {
            const int row = i / 8, channel = c + i % 8 * 8, m = block_m + row;
            const int n = m / (v.H * v.W), p = m / v.W % v.H, q = m % v.W;
            const int h = p + tap / v.S - v.R / 2, w = q + tap % v.S - v.S / 2;
            const bool inside = n < v.N && h >= 0 && h < v.H && w >= 0 && w < v.W;
            put(a + row * kPitch + i % 8 * 8, inside, v.x + ((n * v.H + h) * v.W + w) * v.C + channel);
            put(b + row * kPitch + i % 8 * 8, true, v.w + (block_n + row) * v.gemm_k() + tap * v.C + channel);
        }
        __syncthreads();  // the tiles are whole
        for (int k = 0; k < kBlock; ++k) {
            for (int i = 0; i < 4; ++i) {
                for (int j = 0; j < 4; ++j) {
                    sum[i][j] += a[(down + 16 * i) * kPitch + k] * b[(across + 16 * j) * kPitch + k];
                }
            }
        }
        __syncthreads();  // all have read them
    }
    for (int i = 0; i < 4; ++i) {
        for (int j = 0; j < 4; ++j) {
            const int m = block_m + down + 16 * i, k = block_n + across + 16 * j;
            const float value = sum[i][j] + ptx::to_float(v.b[k]);
            if (m < v.gemm_m()) v.conv[m * v.K + k] = ptx::from_float<float16>(value < 0.0f ? 0.0f : value);
        }
    }
}

void convolve(const Layer& v, cudaStream_t stream) {
    const dim3 grid(v.K / kBlock, divide_up(v.gemm_m(), kBlock));
    ptx::launch("convolve", convolve_kernel, grid, kThreads, 2 * kTile * sizeof(float), stream, v);
}

__global__ void __launch_bounds__(kThreads) pool_kernel(Layer v) {
    const int i = blockIdx.x * kThreads + threadIdx.x;
    const int window = i / v.K, k = i % v.K, pooled_h = v.pooled_h(), pooled_w = v.pooled_w();
    if (window >= v.N * pooled_h * pooled_w) return;
    const int n = window / (pooled_h * pooled_w), p = window / pooled_w % pooled_h, q = window % pooled_w;
    const float16* const corner = v.conv + ((n * v.H + 2 * p) * v.W + 2 * q) * v.K + k;
    float best = ptx::to_float(*corner);
    for (int at = 1; at < 9; ++at) {
        const float value = ptx::to_float(corner[(at / 3 * v.W + at % 3) * v.K]);
        if (value > best || value != value) best = value;
    }
    v.pooled[i] = ptx::from_float<float16>(best);
}

void pool(const Layer& v, cudaStream_t stream) {
    const int outputs = v.N * v.pooled_h() * v.pooled_w() * v.K;
    ptx::launch("pool", pool_kernel, divide_up(outputs, kThreads), kThreads, 0, stream, v);
}

}  // namespace

const Launcher launchers[] = {convolve, pool, nullptr};
