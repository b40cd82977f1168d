// Step 1: a thread an output. What is computed, with nothing done about how fast.
//
// conv[n, p, q, k] = relu(b[k] + the sum over r, s, c of x[n, p + r - R / 2, q + s - S / 2, c] * w[k, r, s, c])
// pooled[n, p, q, k] = the largest of conv[n, 2 p + 0 to 2, 2 q + 0 to 2, k]
//
// Taps outside of the image count as zeros. Outputs are numbered: m is a pixel of an image, i = m K + k an output, and
// a thread has one. Neighbouring threads have neighbouring filters, so they read the same pixel together, and filters
// that lie far apart.
//
//     output m = 6, p = 1, q = 2, and the taps rs that read each pixel:
//     w =     0   1   2   3
//     h = 0   .  00  01  02
//     h = 1   .  10  11  12
//     h = 2   .  20  21  22
//     h = 3   .   .   .   .
//     block 4, thread 77: i = 1101, m = 5, k = 141, p = 0, q = 5; 15 of 25 taps lie inside: 960 products
//     an H100 makes 10 multiply-adds in fp32 in the time of a byte from its memory
//
// Each multiply-add asks for two halves, 4 bytes. Nothing that a thread has read serves another one, unless a cache
// remembers it.
//
// Exercise: let neighbouring threads have neighbouring pixels in place of filters (m = i % GEMM_M). Which of the two
// loads is now the same for a whole warp, and which is not? Count the 32-byte sectors that a warp asks for, both ways.
#include "layer.h"

namespace {

constexpr int kThreads = 256;

__global__ void __launch_bounds__(kThreads) convolve_kernel(Layer v) {
    const int i = blockIdx.x * kThreads + threadIdx.x;
    const int m = i / v.K, k = i % v.K;
    if (m >= v.gemm_m()) return;
    const int n = m / (v.H * v.W), p = m / v.W % v.H, q = m % v.W;
    float sum = ptx::to_float(v.b[k]);
    for (int r = 0; r < v.R; ++r) {
        for (int s = 0; s < v.S; ++s) {
            const int h = p + r - v.R / 2, w = q + s - v.S / 2;
            if (h < 0 || h >= v.H || w < 0 || w >= v.W) continue;
            const float16* const pixel = v.x + ((n * v.H + h) * v.W + w) * v.C;
            const float16* const tap = v.w + ((k * v.R + r) * v.S + s) * v.C;
            for (int c = 0; c < v.C; ++c) sum += ptx::to_float(pixel[c]) * ptx::to_float(tap[c]);
        }
    }
    v.conv[i] = ptx::from_float<float16>(sum < 0.0f ? 0.0f : sum);  // a NaN stays one
}

void convolve(const Layer& v, cudaStream_t stream) {
    ptx::launch("convolve", convolve_kernel, divide_up(v.gemm_m() * v.K, kThreads), kThreads, 0, stream, v);
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
