// Step 6: Hopper. Hardware gathers (TMA), hardware counts (mbarriers), and four warps multiply at once (wgmma).
//
// sums[64 x 64] += a[64 x 16] * b[16 x 64]: wgmma, four of them a step; conv[m, k] = relu(bias[k] + sums[m, k])
//
// warp 4, one thread      full[stage]        warps 0 to 3
//   awaits empty                               await full
//   announces bytes  -->  counts bytes  -->    wgmma: 64 x 64 += a b, both from shared memory
//   two copies            empty[stage]
//                    <--  counts warps  <--    arrive when the products are made
//
//     pixels hw that one im2col copy brings, from output 6 on (- is zeros):
//       m       6   7   8   9  10  11
//       tap 02  03   -  11  12  13   -
//       tap 22  23   -  31  32  33   -
//     a ring of four stages, and the parity with which each is awaited:
//       step              0  1  2  3  4  5  6  7  8  9
//       stage             0  1  2  3  0  1  2  3  0  1
//       full is awaited   0  0  0  0  1  1  1  1  0  0
//       empty is awaited  1  1  1  1  0  0  0  0  1  1
//     thread 77, sum[6]: pixel 43, filter 10, staged at byte 5540
//
// New since step 4: no thread computes an address or a border. A tensor map knows the image, and im2col mode walks its
// pixels and fills zeros in. Fetching and multiplying are different warps, which meet at two barriers a stage and
// never all together. wgmma reads its operands where TMA has put them, swizzled alike; it runs on by itself, so its
// registers are fenced before and awaited behind. The epilogue writes rows as TMA reads them, tells the async proxy (a
// fence, by every thread that wrote), and one thread stores the tile; rows beyond GEMM_M are left out.
//
// It stops at convolution and ReLU: a tile is 64 pixels in a row, as TMA walks, and windows want whole rows of an
// image. Cut into strips for them, more is computed in vain than two passes over the output cost: alexkern's model
// finds two kernels faster for this layer (docs/pooling.md).
//
// Exercise: a block that takes tile after tile could fetch the next one while it stores this one. What else has to be
// awaited before the staging buffer is written again?
#include "../../csrc/cuda/ptx/barrier.cuh"
#include "../../csrc/cuda/ptx/mbarrier.cuh"
#include "../../csrc/cuda/ptx/tma.cuh"
#include "../../csrc/cuda/ptx/wgmma.cuh"
#include "layer.h"

namespace {

using ptx::Swizzle;

constexpr int kConsumers = 128, kThreads = kConsumers + 32;  // a warpgroup that multiplies, a warp that fetches
constexpr int kBlock = 64;                                   // of M, N and K
constexpr int kTile = kBlock * 128, kStages = 4;
constexpr int kStaging = kStages * 2 * kTile, kBarriers = kStaging + kTile, kShared = kBarriers + 16 * kStages;

__global__ void __launch_bounds__(kThreads)
    convolve_kernel(Layer v, const __grid_constant__ ptx::TensorMap x, const __grid_constant__ ptx::TensorMap w,
                    const __grid_constant__ ptx::TensorMap conv) {
    unsigned char* const memory = ptx::dynamic_shared_memory<unsigned char>();
    const std::uint32_t shared = ptx::shared_address(memory);
    const std::uint32_t full = shared + kBarriers, empty = full + 8 * kStages;
    const int block_m = blockIdx.y * kBlock, block_n = blockIdx.x * kBlock, steps = v.gemm_k() / kBlock;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    if (threadIdx.x == 0) {
        for (int stage = 0; stage < kStages; ++stage) {
            ptx::mbarrier_init(full + 8 * stage, 1);   // the thread that fetches
            ptx::mbarrier_init(empty + 8 * stage, 4);  // the warps that multiply
        }
        ptx::fence_mbarrier_init();
    }
    __syncthreads();

    if (warp == kConsumers / 32) {
        if (lane != 0) return;
        const int n = block_m / (v.H * v.W), p = block_m / v.W % v.H, q = block_m % v.W;
        for (int step = 0; step < steps; ++step) {
            const int stage = step % kStages, round = step / kStages;
            const int tap = step / (v.C / kBlock), c = step % (v.C / kBlock) * kBlock;
            const std::uint32_t a = shared + stage * 2 * kTile, b = a + kTile, landed = full + 8 * stage;
            ptx::mbarrier_wait(empty + 8 * stage, (round + 1) & 1);
            ptx::mbarrier_arrive_expect_tx(landed, 2 * kTile);
            ptx::tma_load_im2col(a, x, landed, c, q - v.S / 2, p - v.R / 2, n, tap % v.S, tap / v.S);
            ptx::tma_load_3d(b, w, landed, c, tap, block_n);
        }
        return;
    }

    float sum[kBlock / 2] = {};
    for (int step = 0; step < steps; ++step) {
        const int stage = step % kStages, round = step / kStages;
        const std::uint32_t a = shared + stage * 2 * kTile, b = a + kTile;
        ptx::mbarrier_wait(full + 8 * stage, round & 1);
        ptx::wgmma_fence();
#pragma unroll
        for (int k = 0; k < kBlock / 16; ++k) {
            const auto a_part = ptx::matrix_descriptor<Swizzle::bytes_128>(a + 32 * k, 1024);
            const auto b_part = ptx::matrix_descriptor<Swizzle::bytes_128>(b + 32 * k, 1024);
            ptx::wgmma<float16, kBlock, false, false>(sum, a_part, b_part, step > 0 || k > 0);
        }
        ptx::wgmma_commit_group();
        ptx::wgmma_wait_group<1>(sum);  // the products of the step before are made: its stage may be filled anew
        if (step > 0 && lane == 0) ptx::mbarrier_arrive(empty + 8 * ((step - 1) % kStages));
    }
    ptx::wgmma_wait_group<0>(sum);

#pragma unroll
    for (int i = 0; i < kBlock / 2; i += 2) {
        const int m = 16 * warp + i / 2 % 2 * 8 + lane / 4, k = i / 4 * 8 + 2 * (lane % 4);
        const float first = sum[i] + ptx::to_float(v.b[block_n + k]);
        const float second = sum[i + 1] + ptx::to_float(v.b[block_n + k + 1]);
        *reinterpret_cast<std::uint32_t*>(memory + kStaging + 128 * m + 16 * (k / 8 ^ (m & 7)) + 2 * (k % 8)) =
            ptx::pack<float16>(first < 0.0f ? 0.0f : first, second < 0.0f ? 0.0f : second);
    }
    ptx::fence_proxy_async();  // the threads' writes, to TMA
    ptx::bar_sync(1, kConsumers);
    if (threadIdx.x == 0) {
        ptx::tma_store_3d(conv, shared + kStaging, block_n, 0, block_m);  // rows beyond GEMM_M are left out
        ptx::tma_commit_group();
        ptx::tma_wait_group_read<0>();
    }
}

void convolve(const Layer& v, cudaStream_t stream) {
    const std::uint64_t N = v.N, H = v.H, W = v.W, C = v.C, K = v.K, taps = v.R * v.S, M = v.gemm_m();
    const int lower[] = {-(v.S / 2), -(v.R / 2)};  // of the first tap: as many places as there are pixels
    const auto x = ptx::encode_im2col(v.x, {C, W, H, N}, {2 * C, 2 * C * W, 2 * C * W * H}, {lower[0], lower[1]},
                                      {lower[0], lower[1]}, kBlock, kBlock, {1, 1}, Swizzle::bytes_128);
    const auto w =
        ptx::encode_tiled<3>(v.w, {C, taps, K}, {2 * C, 2 * C * taps}, {kBlock, 1, kBlock}, Swizzle::bytes_128);
    const auto conv = ptx::encode_tiled<3>(v.conv, {K, 1, M}, {2 * K, 2 * K}, {kBlock, 1, kBlock}, Swizzle::bytes_128);
    const dim3 grid(v.K / kBlock, divide_up(v.gemm_m(), kBlock));
    ptx::launch("convolve", convolve_kernel, grid, kThreads, kShared, stream, v, x, w, conv);
}

}  // namespace

const Launcher launchers[] = {convolve, nullptr};
