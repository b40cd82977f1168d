// Step 5: fused. The pooling is in the epilogue, and the convolution's output never reaches memory.
//
// pooled[n, p, q, k] = the largest of conv[n, 2 p + r, 2 q + s, k], r and s 0 to 2; place = 3 r + s, or 255 for a 0
//
// A block has 64 filters of one image and a strip of 15 windows: 31 columns. It walks down, two rows of the
// convolution at a time, 2 x 32 = 64 pixels, the tile of step 4:
//
// column    0                  31
// row 2p    [ carried: the last row of p - 1 ]   a 3 x 3 window looks at all three
// row 2p+1  [ computed: m = 0 to 31          ]
// row 2p+2  [ computed: m = 32 to 63         ]
//
//     the walk down an image; row h of the convolution lies in place h % 3:
//               rows computed   in places   rows pooled
//     p = -1    -1  0           2 0         none
//     p =  0     1  2           1 2         0 1 2
//     p =  1     3  4           0 1         2 3 4
//     p =  2     5  6           2 0         4 5 6
//     thread 77, p = 3, sum[0][1][0]: m = 35, row 8, column 3, filter 10;
//     then it pools window 1, filter 13: columns 2, 3, 4 of rows 6, 7, 8
//
// New since step 4: the loop over p around it all; finished values go to shared memory, where windows find their rows
// whoever computed them; one byte a window says which of its nine pixels won, the first of equals, and 255 that the
// ReLU let nothing pass. That is all that a backward pass needs of this layer's outputs.
//
// The price: windows overlap, so a strip's last column is computed by its neighbour too; of the first two rows one
// lies above the image; and the 13 windows of AlexNet's second layer leave 5 of 32 columns empty. Whether it pays
// depends on the layer; alexkern's cost models decide.
//
// Exercise: with one image this fills few of a chip's multiprocessors. Cut the walk into segments of rows, one a
// block: how many rows are computed twice, and which line needs the segment's first row?
#include "../../csrc/cuda/ptx/cp_async.cuh"
#include "../../csrc/cuda/ptx/ldmatrix.cuh"
#include "../../csrc/cuda/ptx/mma.cuh"
#include "layer.h"

namespace {

constexpr int kThreads = 128;  // 2 x 2 warps, each 32 pixels x 32 filters
constexpr int kBlock = 64;     // of M, N and K: a row of a tile is 128 bytes, 8 vectors, all 32 banks once
constexpr int kTile = kBlock * 128, kStages = 3;
constexpr int kColumns = 32, kWindows = 15;                   // of conv and of pooled: 15 windows look at 31 columns
constexpr int kPitch = kBlock + 8, kRow = kColumns * kPitch;  // of the finished values, in halves
constexpr int kFinished = kStages * 2 * kTile;  // where they lie: three rows of conv, row h in place h % 3
constexpr std::uint8_t kClipped = 255;          // a winner that the ReLU did not let pass

// Where a vector of a row lies: eight rows of one vector number lie in eight different places of the 128 bytes.
__device__ __forceinline__ std::uint32_t swizzled(int row, int vector) { return 128 * row + 16 * (vector ^ (row & 7)); }

__global__ void __launch_bounds__(kThreads) convolve_kernel(Layer v) {
    unsigned char* const memory = ptx::dynamic_shared_memory<unsigned char>();
    const std::uint32_t shared = ptx::shared_address(memory);
    float16* const finished = reinterpret_cast<float16*>(memory + kFinished);
    const int block_n = blockIdx.x * kBlock, first_q = blockIdx.y * kWindows, n = blockIdx.z;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warp_m = warp / 2 * 32, warp_n = warp % 2 * 32;
    const int steps = v.gemm_k() / kBlock;
    // Windows of row p look at rows 2p, 2p + 1 and 2p + 2. The first was the last of p - 1, the others are computed.
    for (int p = -1; p < v.pooled_h(); ++p) {
        const auto fetch = [&](int step) {
            const std::uint32_t a = shared + step % kStages * 2 * kTile, b = a + kTile;
            const int tap = step / (v.C / kBlock), c = step % (v.C / kBlock) * kBlock;
            for (int i = threadIdx.x; i < kBlock * 8 && step < steps; i += kThreads) {
                const int row = i / 8, channel = c + i % 8 * 8;
                const int h = 2 * p + 1 + row / kColumns + tap / v.S - v.R / 2;
                const int w = 2 * first_q + row % kColumns + tap % v.S - v.S / 2;
                const bool inside = h >= 0 && h < v.H && w >= 0 && w < v.W;
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
                    const int m = warp_m + 16 * i + 8 * half + lane / 4, k = warp_n + 8 * j + 2 * (lane % 4);
                    const int place = (2 * p + 1 + m / kColumns + 3) % 3;
                    const float first = sum[i][j][2 * half] + ptx::to_float(v.b[block_n + k]);
                    const float second = sum[i][j][2 * half + 1] + ptx::to_float(v.b[block_n + k + 1]);
                    *reinterpret_cast<std::uint32_t*>(finished + place * kRow + m % kColumns * kPitch + k) =
                        ptx::pack<float16>(first < 0.0f ? 0.0f : first, second < 0.0f ? 0.0f : second);
                }
            }
        }
        __syncthreads();  // the three rows are whole; the next step's barrier is behind who reads them
        for (int i = threadIdx.x; i < kWindows * kBlock && p >= 0; i += kThreads) {
            const int q = first_q + i / kBlock, k = i % kBlock;
            if (q >= v.pooled_w()) continue;
            float best = 0.0f;
            int winner = 0;
            for (int at = 0; at < 9; ++at) {
                const int place = (2 * p + at / 3) % 3, column = 2 * (i / kBlock) + at % 3;
                const float value = ptx::to_float(finished[place * kRow + column * kPitch + k]);
                if (at > 0 && !(value > best) && value == value) continue;
                best = value;
                winner = at;
            }
            const int to = ((n * v.pooled_h() + p) * v.pooled_w() + q) * v.K + block_n + k;
            v.pooled[to] = ptx::from_float<float16>(best);
            v.place[to] = best <= 0.0f ? kClipped : static_cast<std::uint8_t>(winner);
        }
    }
}

void convolve(const Layer& v, cudaStream_t stream) {
    const dim3 grid(v.K / kBlock, divide_up(v.pooled_w(), kWindows), v.N);
    const int shared_bytes = kFinished + 3 * kRow * static_cast<int>(sizeof(float16));
    ptx::launch("convolve", convolve_kernel, grid, kThreads, shared_bytes, stream, v);
}

}  // namespace

const Launcher launchers[] = {convolve, nullptr};
