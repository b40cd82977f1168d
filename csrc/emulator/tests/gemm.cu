// A real kernel: C = A B^T in bf16 with fp32 accumulation, through a ring of cp.async stages, swizzled shared memory,
// ldmatrix and mma.sync; A is M x K and B is N x K, both K-contiguous, as an implicit GEMM has them.
#include <chrono>

#include "../../cuda/ptx/cp_async.cuh"
#include "../../cuda/ptx/ldmatrix.cuh"
#include "../../cuda/ptx/mma.cuh"
#include "harness.h"

namespace {

using ptx::bfloat16;

constexpr int kBlockM = 64, kBlockN = 64, kBlockK = 64;  // a row of a tile is 128 bytes: 8 vectors, one bank line
constexpr int kStages = 3, kThreads = 128;               // 2 x 2 warps, each 32 x 32 of the output
constexpr int kTileBytes = kBlockM * kBlockK * 2;
constexpr int kSharedBytes = kStages * 2 * kTileBytes;
constexpr int kWarpM = 32, kWarpN = 32;

// Rows that ldmatrix reads together lie in different vectors of it.
__device__ __forceinline__ std::uint32_t swizzled(int row, int vector) { return 128 * row + 16 * (vector ^ (row & 7)); }

// A tile of 64 rows; those beyond `rows`, and what lies beyond K, become zeros.
__device__ __forceinline__ void fetch_tile(std::uint32_t tile, const bfloat16* matrix, int first_row, int rows,
                                           int first_k, int K) {
    for (int i = threadIdx.x; i < kBlockM * 8; i += kThreads) {
        const int row = first_row + i / 8, k = first_k + i % 8 * 8;
        const bool inside = row < rows && k < K;
        const bfloat16* source = inside ? matrix + static_cast<std::size_t>(row) * K + k : matrix;
        ptx::cp_async_16(tile + swizzled(i / 8, i % 8), source, inside ? 16 : 0);
    }
}

__global__ void __launch_bounds__(kThreads)
    gemm_kernel(const bfloat16* a, const bfloat16* b, float* c, int M, int N, int K) {
    const std::uint32_t shared = ptx::shared_address(ptx::dynamic_shared_memory<unsigned char>());
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int block_m = blockIdx.y * kBlockM, block_n = blockIdx.x * kBlockN;
    const int warp_m = warp / 2 * kWarpM, warp_n = warp % 2 * kWarpN;
    const int steps = (K + kBlockK - 1) / kBlockK;
    const auto fetch = [&](int step) {
        if (step < steps) {
            const std::uint32_t stage = shared + step % kStages * 2 * kTileBytes;
            fetch_tile(stage, a, block_m, M, step * kBlockK, K);
            fetch_tile(stage + kTileBytes, b, block_n, N, step * kBlockK, K);
        }
        ptx::cp_async_commit_group();  // an empty one too: the waits count groups
    };
    for (int step = 0; step < kStages - 1; ++step) fetch(step);

    float sum[kWarpM / 16][kWarpN / 8][4] = {};
    for (int step = 0; step < steps; ++step) {
        ptx::cp_async_wait_group<kStages - 2>();
        __syncthreads();  // this step has landed for all, and all have done with the step before
        fetch(step + kStages - 1);
        const std::uint32_t a_tile = shared + step % kStages * 2 * kTileBytes, b_tile = a_tile + kTileBytes;
        for (int k = 0; k < kBlockK / 16; ++k) {
            std::uint32_t a_registers[kWarpM / 16][4], b_registers[kWarpN / 8][2];
            for (int i = 0; i < kWarpM / 16; ++i) {
                ptx::ldmatrix_x4(a_registers[i], a_tile + swizzled(warp_m + 16 * i + lane % 16, 2 * k + lane / 16));
            }
            for (int j = 0; j < kWarpN / 8; j += 2) {
                std::uint32_t pair[4];
                ptx::ldmatrix_x4(pair,
                                 b_tile + swizzled(warp_n + 8 * j + lane % 8 + lane / 16 * 8, 2 * k + lane / 8 % 2));
                b_registers[j][0] = pair[0];
                b_registers[j][1] = pair[1];
                b_registers[j + 1][0] = pair[2];
                b_registers[j + 1][1] = pair[3];
            }
            for (int i = 0; i < kWarpM / 16; ++i) {
                for (int j = 0; j < kWarpN / 8; ++j)
                    ptx::mma_m16n8k16<bfloat16>(sum[i][j], a_registers[i], b_registers[j]);
            }
        }
    }
    for (int i = 0; i < kWarpM / 16; ++i) {
        for (int j = 0; j < kWarpN / 8; ++j) {
            const int n = block_n + warp_n + 8 * j + 2 * (lane % 4);
            for (int half = 0; half < 2; ++half) {
                const int m = block_m + warp_m + 16 * i + 8 * half + lane / 4;
                if (m >= M || n >= N) continue;
                *reinterpret_cast<float2*>(c + static_cast<std::size_t>(m) * N + n) =
                    make_float2(sum[i][j][2 * half], sum[i][j][2 * half + 1]);
            }
        }
    }
}

// Values that bf16 has exactly, so that the reference sees the same.
std::vector<bfloat16> random_bf16(std::size_t count, unsigned seed, std::vector<float>& values) {
    values = harness::random_floats(count, seed);
    std::vector<bfloat16> result(count);
    for (std::size_t i = 0; i < count; ++i) {
        std::uint32_t bits;
        std::memcpy(&bits, &values[i], 4);
        result[i].bits = static_cast<std::uint16_t>(bits >> 16);
        bits &= 0xffff0000u;
        std::memcpy(&values[i], &bits, 4);
    }
    return result;
}

void gemm(int M, int N, int K, bool timed) {
    std::vector<float> a_values, b_values;
    const harness::DeviceArray<bfloat16> a(random_bf16(static_cast<std::size_t>(M) * K, 1, a_values));
    const harness::DeviceArray<bfloat16> b(random_bf16(static_cast<std::size_t>(N) * K, 2, b_values));
    const harness::DeviceArray<float> c(std::vector<float>(static_cast<std::size_t>(M) * N, -77.0f));
    const dim3 grid((N + kBlockN - 1) / kBlockN, (M + kBlockM - 1) / kBlockM);
    const auto start = std::chrono::steady_clock::now();
    ptx::launch("gemm", gemm_kernel, grid, kThreads, kSharedBytes, nullptr, a.data(), b.data(), c.data(), M, N, K);
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
    if (timed) std::printf("%d x %d x %d: %.3f s\n", M, N, K, elapsed.count());
    std::vector<double> wanted(static_cast<std::size_t>(M) * N);
    for (int m = 0; m < M; ++m) {
        for (int n = 0; n < N; ++n) {
            double sum = 0;
            for (int k = 0; k < K; ++k)
                sum += double{a_values[static_cast<std::size_t>(m) * K + k]} *
                       b_values[static_cast<std::size_t>(n) * K + k];
            wanted[static_cast<std::size_t>(m) * N + n] = sum;
        }
    }
    // Sums of K products below 1 in fp32: half a unit in the last place of about sqrt(K), each of K times.
    harness::expect_close(c.download(), wanted, 6e-8 * K * 8, "c");
#ifndef __CUDACC__
    const auto conflicts = emulator::statistics().ldmatrix_bank_conflicts;
    if (conflicts != 0) throw std::runtime_error("bank conflicts: " + std::to_string(conflicts));
#endif
}

}  // namespace

int main(int argc, char** argv) {
    return harness::run_cases(argc, argv,
                              {{"whole_tiles", [] { gemm(64, 128, 128, false); }},
                               {"partial_tiles", [] { gemm(75, 70, 200, false); }},
                               {"few_steps", [] { gemm(40, 24, 8, false); }},
                               {"conv3", [] { gemm(169, 384, 1728, true); }}});
}
