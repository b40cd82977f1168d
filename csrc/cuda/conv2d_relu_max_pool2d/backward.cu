// Back through pooling and ReLU in one pass: each pixel of the convolution's output gathers the gradients of the
// windows that it won, those that the ReLU let pass, and writes them where the products read them. What is gathered is
// summed on the way, in fp64: the bias's gradient. The bytes that it reads are those of examples/ladder/5_fused.cu.
#include "../divider.h"
#include "../max_pool2d/gather.cuh"
#include "../ptx/launch.cuh"
#include "conv2d_relu_max_pool2d.h"

namespace alexkern::conv2d_relu_max_pool2d {
namespace {

constexpr int kThreads = 256;

// A thread has the same kWidth channels of many pixels. kGeneral: any window, else 3x3 with stride 2.
template <typename T, typename Offset, int kWidth, bool kGeneral>
__global__ void __launch_bounds__(kThreads, 3)  // blocks, for registers
    backward_kernel(const __grid_constant__ BackwardParams p, const Divider by_W, const Divider by_H) {
    const int all_channels = p.groups * p.padded_C, vectors = all_channels / kWidth;
    const int vectors_of_block = min(vectors, kThreads), lanes = kThreads / vectors_of_block;  // pixels at once
    const int tiles = (vectors + vectors_of_block - 1) / vectors_of_block;
    const int own = threadIdx.x % vectors_of_block, lane = threadIdx.x / vectors_of_block;
    const int first = (static_cast<int>(blockIdx.x % tiles) * vectors_of_block + own) * kWidth;  // channel
    const int chunk = static_cast<int>(blockIdx.x / tiles);
    const int channels = p.pool.C / p.groups, c = first % p.padded_C;
    const int source_c = first / p.padded_C * channels + c;
    const bool inside = first < all_channels && lane < lanes;
    const std::int64_t pixels = static_cast<std::int64_t>(p.pool.N) * p.pool.H * p.pool.W;
    const std::int64_t end = pixels * (chunk + 1) / p.chunks;
    T* const destination = static_cast<T*>(p.destination);  // (N, H, W, groups, padded_C)
    double sum[kWidth] = {};
    for (std::int64_t pixel = pixels * chunk / p.chunks + lane; inside && pixel < end; pixel += lanes) {
        float total[kWidth] = {};
        if (c < channels) {  // else it is padding
            std::int64_t n = pixel;
            const int w = static_cast<int>(split_off(n, by_W)), h = static_cast<int>(split_off(n, by_H));
            max_pool2d::gather<!kGeneral, T, Offset>(total, p.pool, static_cast<int>(n), source_c, h, w);
        }
        store_vector(destination + pixel * all_channels + first, total);
#pragma unroll
        for (int i = 0; i < kWidth; ++i) sum[i] += total[i];
    }
    if (p.sums == nullptr) return;
    double* const parts = ptx::dynamic_shared_memory<double>();  // (lanes, vectors_of_block, kWidth)
    if (inside) {
#pragma unroll
        for (int i = 0; i < kWidth; ++i) parts[threadIdx.x * kWidth + i] = sum[i];
    }
    __syncthreads();
    if (!inside || lane > 0) return;
#pragma unroll
    for (int i = 0; i < kWidth; ++i) {
        double total = 0.0;
        for (int other = 0; other < lanes; ++other) total += parts[(other * vectors_of_block + own) * kWidth + i];
        p.sums[static_cast<std::int64_t>(chunk) * all_channels + first + i] = static_cast<float>(total);
    }
}

template <typename T, typename Offset, int kWidth>
void launch(const BackwardParams& params, Stream stream) {
    const int vectors = params.groups * params.padded_C / kWidth;
    const std::int64_t blocks = static_cast<std::int64_t>((vectors + kThreads - 1) / kThreads) * params.chunks;
    auto kernel = backward_kernel<T, Offset, kWidth, true>;
    if constexpr (kWidth > 1) {
        if (max_pool2d::is_3x3_stride_2(params.pool.window)) kernel = backward_kernel<T, Offset, kWidth, false>;
    }
    const std::size_t shared_bytes = params.sums == nullptr ? 0 : kThreads * kWidth * sizeof(double);
    ptx::launch("conv2d_relu_max_pool2d's pooling gradient", kernel, dim3(static_cast<unsigned>(blocks)),
                dim3(kThreads), shared_bytes, stream, params, Divider(params.pool.W), Divider(params.pool.H));
}

// Whether every access can be of kVector channels.
template <typename T>
bool in_vectors(const BackwardParams& params) {
    const max_pool2d::Params& pool = params.pool;
    constexpr int kWidth = kVector<T>;
    return !pool.wide_offsets && pool.C == params.groups * params.padded_C && params.padded_C % kWidth == 0 &&
           max_pool2d::in_vectors(pool.pooled, pool.pooled_strides, kWidth, sizeof(T)) &&
           max_pool2d::in_vectors(pool.offsets, pool.offset_strides, kWidth, 1);
}

}  // namespace

void backward(const BackwardParams& params, Stream stream) {
    with_type(params.pool.element, [&](auto type) {
        using T = decltype(type);
        if (params.pool.wide_offsets) {
            launch<T, std::int32_t, 1>(params, stream);
        } else if (in_vectors<T>(params)) {
            launch<T, std::uint8_t, kVector<T>>(params, stream);
        } else {
            launch<T, std::uint8_t, 1>(params, stream);
        }
    });
}

}  // namespace alexkern::conv2d_relu_max_pool2d
