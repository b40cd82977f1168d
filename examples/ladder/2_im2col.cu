// Step 2: the matrix made. A convolution is a matrix product, if one writes every neighbourhood as a row.
//
// rows[m, (r, s, c)] = x[n, p + r - R / 2, q + s - S / 2, c], or 0 outside        rows: GEMM_M x GEMM_K = N P Q x R S C
// conv[m, k] = relu(b[k] + the sum over (r, s, c) of rows[m, (r, s, c)] * w[k, (r, s, c)])     w: K x GEMM_K
//
//     rows of the matrix, and the pixel hw that each tap copies into them (- is zeros):
//     tap        00  01  02  10  11  12  20  21  22
//     m =  0      -   -   -   -  00  01   -  10  11
//     m =  1      -   -   -  00  01  02  10  11  12
//     m =  5     00  01  02  10  11  12  20  21  22
//     m =  6     01  02  03  11  12  13  21  22  23
//     m = 15     22  23   -  32  33   -   -   -   -
//     thread 70000: m = 350, tap 0 = (0, 0), channels 0 to 7 of pixel (10, 24), inside
//
// New since step 1: im2col_kernel, and a product that knows nothing of images. Its loop has no test and no division,
// and it loads 16 bytes at a time: a load serves four multiply-adds in place of a half of one. Any matrix product
// would do now, the fastest there is.
//
// The price: a pixel stands in R S rows. For AlexNet's second layer the matrix is 25 times as large as the image, is
// written once, and is read K times, as before.
//
// Exercise: the rows of a filter with R = S = 1 are the image itself. Which test on the host saves the copy?
#include "layer.h"

namespace {

constexpr int kThreads = 256;

__global__ void __launch_bounds__(kThreads) im2col_kernel(Layer v) {
    const int i = blockIdx.x * kThreads + threadIdx.x;
    const int vectors = v.C / 8, m = i / (v.R * v.S * vectors);
    if (m >= v.gemm_m()) return;
    const int n = m / (v.H * v.W), p = m / v.W % v.H, q = m % v.W;
    const int tap = i / vectors % (v.R * v.S), vector = i % vectors;
    const int h = p + tap / v.S - v.R / 2, w = q + tap % v.S - v.S / 2;
    const bool inside = h >= 0 && h < v.H && w >= 0 && w < v.W;
    const uint4* const pixel = reinterpret_cast<const uint4*>(v.x + ((n * v.H + h) * v.W + w) * v.C);
    reinterpret_cast<uint4*>(v.rows)[i] = inside ? pixel[vector] : make_uint4(0, 0, 0, 0);
}

void im2col(const Layer& v, cudaStream_t stream) {
    const int vectors = v.gemm_m() * (v.gemm_k() / 8);
    ptx::launch("im2col", im2col_kernel, divide_up(vectors, kThreads), kThreads, 0, stream, v);
}

// a b + sum, of two halves each.
__device__ __forceinline__ float multiply_add(unsigned a, unsigned b, float sum) {
    const float2 x = ptx::unpack<float16>(a), y = ptx::unpack<float16>(b);
    return sum + x.x * y.x + x.y * y.y;
}

__global__ void __launch_bounds__(kThreads) multiply_kernel(Layer v) {
    const int i = blockIdx.x * kThreads + threadIdx.x;
    const int m = i / v.K, k = i % v.K;
    if (m >= v.gemm_m()) return;
    const uint4* const row = reinterpret_cast<const uint4*>(v.rows + m * v.gemm_k());
    const uint4* const filter = reinterpret_cast<const uint4*>(v.w + k * v.gemm_k());
    float sum = ptx::to_float(v.b[k]);
    for (int vector = 0; vector < v.gemm_k() / 8; ++vector) {
        const uint4 a = row[vector], b = filter[vector];
        sum = multiply_add(a.x, b.x, sum);
        sum = multiply_add(a.y, b.y, sum);
        sum = multiply_add(a.z, b.z, sum);
        sum = multiply_add(a.w, b.w, sum);
    }
    v.conv[i] = ptx::from_float<float16>(sum < 0.0f ? 0.0f : sum);  // a NaN stays one
}

void multiply(const Layer& v, cudaStream_t stream) {
    ptx::launch("multiply", multiply_kernel, divide_up(v.gemm_m() * v.K, kThreads), kThreads, 0, stream, v);
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

const Launcher launchers[] = {im2col, multiply, pool, nullptr};
