// Step 4: tensor cores. A warp multiplies 16 x 16 by 16 x 8 in one instruction, if its lanes bring the right numbers.
//
// sums[16 x 8] += a[16 x 16] * b[16 x 8]: mma.sync, 32 of them a warp and step; conv[m, k] = relu(bias[k] + sums[m, k])
//
// The tile and its steps are those of step 3, in halves now; a row of 64 of them is 128 bytes, all 32 banks once.
//
// time   ->  step 0         step 1         step 2
// copies     2 on their way 3 on their way 4 on their way      cp.async, two steps ahead, past the registers
// product    0              1              2                   ldmatrix, mma.sync
//
//     place of each vector (16 bytes, 8 channels) of a row; ldmatrix reads a column of eight:
//       vector   0   1   2   3   4   5   6   7
//       row 0    0   1   2   3   4   5   6   7
//       row 1    1   0   3   2   5   4   7   6
//       row 2    2   3   0   1   6   7   4   5
//       row 3    3   2   1   0   7   6   5   4
//       row 4    4   5   6   7   0   1   2   3
//       row 5    5   4   7   6   1   0   3   2
//       row 6    6   7   4   5   2   3   0   1
//       row 7    7   6   5   4   3   2   1   0
//     lane.register of the sums in a 16 x 8 fragment:
//       filter    0    1    2    3    4    5    6    7
//       row  0  0.0  0.1  1.0  1.1  2.0  2.1  3.0  3.1
//       row  1  4.0  4.1  5.0  5.1  6.0  6.1  7.0  7.1
//       row  7 28.0 28.1 29.0 29.1 30.0 30.1 31.0 31.1
//       row  8  0.2  0.3  1.2  1.3  2.2  2.3  3.2  3.3
//       row 15 28.2 28.3 29.2 29.3 30.2 30.3 31.2 31.3
//     lane 21, warp 0, i = 1, k = 1: the address of row 21, vector 3: byte 2784
//
// New since step 3. cp.async: a step's copies are in flight while earlier ones are multiplied; a ring of three stages.
// Swizzle in place of a pitch: vectors stay aligned to 16 bytes, and the eight rows that ldmatrix reads at once still
// lie in eight different places. ldmatrix: brings fragments as mma.sync wants them. One barrier a step: it says both
// that this step has landed for all and that all have done with the one before, whose stage is filled next.
//
// A wait counts groups: "until at most one is in flight". So every step closes a group, an empty one too.
//
// Exercise: four stages. Which constant changes, how much shared memory is that, and how many blocks of it fit into
// the 228 KB of a multiprocessor?
#include "../../csrc/cuda/ptx/cp_async.cuh"
#include "../../csrc/cuda/ptx/ldmatrix.cuh"
#include "../../csrc/cuda/ptx/mma.cuh"
#include "layer.h"

namespace {

constexpr int kThreads = 128;  // 2 x 2 warps, each 32 pixels x 32 filters
constexpr int kBlock = 64;     // of M, N and K: a row of a tile is 128 bytes, 8 vectors, all 32 banks once
constexpr int kTile = kBlock * 128, kStages = 3;

// Where a vector of a row lies: eight rows of one vector number lie in eight different places of the 128 bytes.
__device__ __forceinline__ std::uint32_t swizzled(int row, int vector) { return 128 * row + 16 * (vector ^ (row & 7)); }

__global__ void __launch_bounds__(kThreads) convolve_kernel(Layer v) {
    const std::uint32_t shared = ptx::shared_address(ptx::dynamic_shared_memory<unsigned char>());
    const int block_m = blockIdx.y * kBlock, block_n = blockIdx.x * kBlock, steps = v.gemm_k() / kBlock;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warp_m = warp / 2 * 32, warp_n = warp % 2 * 32;
    const auto fetch = [&](int step) {
        const std::uint32_t a = shared + step % kStages * 2 * kTile, b = a + kTile;
        const int tap = step / (v.C / kBlock), c = step % (v.C / kBlock) * kBlock;
        for (int i = threadIdx.x; i < kBlock * 8 && step < steps; i += kThreads) {
            const int row = i / 8, channel = c + i % 8 * 8, m = block_m + row;
            const int n = m / (v.H * v.W), p = m / v.W % v.H, q = m % v.W;
            const int h = p + tap / v.S - v.R / 2, w = q + tap % v.S - v.S / 2;
            const bool inside = n < v.N && h >= 0 && h < v.H && w >= 0 && w < v.W;
            const float16* const pixel = v.x + ((n * v.H + h) * v.W + w) * v.C + channel;
            ptx::cp_async_16(a + swizzled(row, i % 8), inside ? pixel : v.x, inside ? 16 : 0);
            ptx::cp_async_16(b + swizzled(row, i % 8), v.w + (block_n + row) * v.gemm_k() + tap * v.C + channel);
        }
        ptx::cp_async_commit_group();  // an empty one too: the waits count groups
    };
    for (int step = 0; step < kStages - 1; ++step) fetch(step);

    float sum[2][4][4] = {};  // of 16 x 8 fragments
    for (int step = 0; step < steps; ++step) {
        ptx::cp_async_wait_group<kStages - 2>();
        __syncthreads();  // this step has landed for all, and all have done with the step before
        fetch(step + kStages - 1);
        const std::uint32_t a_tile = shared + step % kStages * 2 * kTile, b_tile = a_tile + kTile;
#pragma unroll
        for (int k = 0; k < kBlock / 16; ++k) {
            std::uint32_t a[2][4], b[4][2];
            for (int i = 0; i < 2; ++i) {
                ptx::ldmatrix_x4(a[i], a_tile + swizzled(warp_m + 16 * i + lane % 16, 2 * k + lane / 16));
            }
            for (int j = 0; j < 4; ++j) {
                ptx::ldmatrix_x2(b[j], b_tile + swizzled(warp_n + 8 * j + lane % 8, 2 * k + lane / 8 % 2));
            }
            for (int i = 0; i < 2; ++i) {
                for (int j = 0; j < 4; ++j) ptx::mma_m16n8k16<float16>(sum[i][j], a[i], b[j]);
            }
        }
    }

    for (int i = 0; i < 2; ++i) {
        for (int j = 0; j < 4; ++j) {
            for (int half = 0; half < 2; ++half) {
                const int m = block_m + warp_m + 16 * i + 8 * half + lane / 4;
                const int k = block_n + warp_n + 8 * j + 2 * (lane % 4);
                const float first = sum[i][j][2 * half] + ptx::to_float(v.b[k]);
                const float second = sum[i][j][2 * half + 1] + ptx::to_float(v.b[k + 1]);
                if (m >= v.gemm_m()) continue;
                *reinterpret_cast<std::uint32_t*>(v.conv + m * v.K + k) =
                    ptx::pack<float16>(first < 0.0f ? 0.0f : first, second < 0.0f ? 0.0f : second);
            }
        }
    }
}

void convolve(const Layer& v, cudaStream_t stream) {
    const dim3 grid(v.K / kBlock, divide_up(v.gemm_m(), kBlock));
    ptx::launch("convolve", convolve_kernel, grid, kThreads, kStages * 2 * kTile, stream, v);
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
