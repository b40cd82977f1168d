// What each wrapper of csrc/cuda/ptx for sm_90a does, against plain scalar code: mbarrier, TMA, wgmma, stmatrix. Runs
// on the emulator and, compiled by nvcc, on a GPU: the two must agree.
#include <algorithm>

#include "../../cuda/ptx/barrier.cuh"
#include "../../cuda/ptx/mbarrier.cuh"
#include "../../cuda/ptx/stmatrix.cuh"
#include "../../cuda/ptx/tma.cuh"
#include "../../cuda/ptx/warpgroup.cuh"
#include "../../cuda/ptx/wgmma.cuh"
#include "harness.h"

namespace {

using harness::DeviceArray;
using harness::expect_close;
using harness::expect_equal;
using ptx::bfloat16;
using ptx::float16;
using ptx::Swizzle;

#if defined(__CUDA_ARCH__) && !defined(__CUDA_ARCH_FEAT_SM90_ALL)
#error "these wrappers are for sm_90a"
#endif

constexpr int kSwizzleBytes[] = {0, 32, 64, 128};

std::vector<std::uint16_t> counting(std::size_t count) {
    std::vector<std::uint16_t> values(count);
    for (std::size_t i = 0; i < count; ++i) values[i] = static_cast<std::uint16_t>(i + 1);
    return values;
}

// Where byte `byte` of row `row` lies: rows `pitch` apart, their 16-byte pieces permuted by the row's number.
std::size_t byte_at(Swizzle swizzle, int inner_bytes, int row, int byte) {
    const int width = kSwizzleBytes[static_cast<int>(swizzle)];
    if (width == 0) return static_cast<std::size_t>(row) * inner_bytes + byte;
    const int line = row * width / 128;  // of 128 bytes
    const int piece = (row * width % 128 + byte) / 16;
    return static_cast<std::size_t>(line) * 128 + (piece ^ (line % 8 & (width / 16 - 1))) * 16 + byte % 16;
}

__device__ void set_up(std::uint32_t mbarrier, unsigned arrivals) {
    if (threadIdx.x == 0) {
        ptx::mbarrier_init(mbarrier, arrivals);
        ptx::fence_mbarrier_init();
    }
    __syncthreads();
}

// ---- mbarrier: three warps hand a word on, round after round

__global__ void mbarrier_kernel(unsigned* output, int rounds) {
    auto* words = ptx::dynamic_shared_memory<unsigned>();  // [64], then the barriers
    const std::uint32_t full = ptx::shared_address(words + 64), empty = full + 8;
    if (threadIdx.x == 0) {
        ptx::mbarrier_init(full, 64);
        ptx::mbarrier_init(empty, 1);
    }
    __syncthreads();
    if (threadIdx.x < 64) {
        for (int round = 0; round < rounds; ++round) {
            ptx::mbarrier_wait(empty, (round & 1) ^ 1);  // the first returns at once
            words[threadIdx.x] = 100 * round + threadIdx.x;
            ptx::mbarrier_arrive(full);
        }
    } else {
        for (int round = 0; round < rounds; ++round) {
            ptx::mbarrier_wait(full, round & 1);
            const unsigned lane = threadIdx.x - 64;
            output[32 * round + lane] = words[lane] + words[63 - lane];
            __syncwarp();
            if (lane == 0) ptx::mbarrier_arrive(empty);
        }
    }
}

void test_mbarrier() {
    constexpr int kRounds = 5;
    DeviceArray<unsigned> output(std::vector<unsigned>(32 * kRounds));
    ptx::launch("mbarrier", mbarrier_kernel, 1, 96, 64 * 4 + 16, nullptr, output.data(), kRounds);
    std::vector<unsigned> wanted;
    for (unsigned i = 0; i < 32 * kRounds; ++i) wanted.push_back(200 * (i / 32) + 63);
    expect_equal(output.download(), wanted, "word");
}

// ---- TMA loads: shared memory as they leave it

struct Pixels {
    int c, w, h, n, offset_w, offset_h;
};

__global__ void load_kernel(const __grid_constant__ ptx::TensorMap map, std::uint16_t* output, int words,
                            unsigned loaded_bytes, Pixels at, bool im2col) {
    auto* tile = ptx::dynamic_shared_memory<std::uint16_t>();  // the tile, padded to 1024 bytes, and the barrier
    const std::uint32_t mbarrier = ptx::shared_address(tile) + (2 * words + 1023) / 1024 * 1024;
    for (int i = threadIdx.x; i < words; i += blockDim.x) tile[i] = 0xeeee;  // stays where no copy goes
    ptx::fence_proxy_async();
    set_up(mbarrier, 1);
    if (threadIdx.x == 0) {
        ptx::prefetch_tensor_map(map);
        ptx::mbarrier_arrive_expect_tx(mbarrier, loaded_bytes);
        if (im2col) {
            ptx::tma_load_im2col(ptx::shared_address(tile), map, mbarrier, at.c, at.w, at.h, at.n, at.offset_w,
                                 at.offset_h);
        } else {
            ptx::tma_load_3d(ptx::shared_address(tile), map, mbarrier, at.c, at.w, at.h);
        }
    }
    ptx::mbarrier_wait(mbarrier, 0);
    for (int i = threadIdx.x; i < words; i += blockDim.x) output[i] = tile[i];
}

void load(const ptx::TensorMap& map, const Pixels& at, bool im2col, Swizzle swizzle, int rows, int inner,
          const std::vector<std::uint16_t>& values) {
    const int width = kSwizzleBytes[static_cast<int>(swizzle)];
    const int words = rows * (width == 0 ? inner : width / 2);
    DeviceArray<std::uint16_t> output{std::vector<std::uint16_t>(words)};
    ptx::launch("load", load_kernel, 1, 32, (2 * words + 1023) / 1024 * 1024 + 8, nullptr, map, output.data(), words,
                static_cast<unsigned>(rows * inner * 2), at, im2col);
    std::vector<std::uint16_t> wanted(words, 0xeeee);
    for (int row = 0; row < rows; ++row) {
        for (int i = 0; i < inner; ++i) {
            wanted[byte_at(swizzle, inner * 2, row, 2 * i) / 2] = values[static_cast<std::size_t>(row) * inner + i];
        }
    }
    expect_equal(output.download(), wanted, "word");
}

// Boxes of a tensor of 5 x 7 x 72 values, inside and over its edges.
void test_tma_tile() {
    const std::vector<std::uint16_t> values = counting(5 * 7 * 72);
    DeviceArray<std::uint16_t> tensor(values);
    for (const Swizzle swizzle : {Swizzle::none, Swizzle::bytes_32, Swizzle::bytes_64, Swizzle::bytes_128}) {
        const int width = kSwizzleBytes[static_cast<int>(swizzle)];
        for (const int inner : {8, 16, 32, 64}) {
            if (width != 0 && inner * 2 != width) continue;
            const std::uint32_t box[3] = {static_cast<std::uint32_t>(inner), 4, 3};
            const ptx::TensorMap map = ptx::encode_tiled<3>(tensor.data(), {72, 7, 5}, {144, 1008}, box, swizzle);
            for (const Pixels& at :
                 {Pixels{8, 1, 1, 0, 0, 0}, Pixels{-3, -1, -2, 0, 0, 0}, Pixels{67, 5, 3, 0, 0, 0}}) {
                std::vector<std::uint16_t> wanted;
                for (int z = at.h; z < at.h + 3; ++z) {
                    for (int y = at.w; y < at.w + 4; ++y) {
                        for (int x = at.c; x < at.c + inner; ++x) {
                            const bool there = x >= 0 && x < 72 && y >= 0 && y < 7 && z >= 0 && z < 5;
                            wanted.push_back(there ? values[(z * 7 + y) * 72 + x] : std::uint16_t{0});
                        }
                    }
                }
                load(map, at, false, swizzle, 12, inner, wanted);
            }
        }
    }
}

struct Axis {
    int stride, padding, dilation;

    int outputs(int size, int taps) const { return (size + 2 * padding - dilation * (taps - 1) - 1) / stride + 1; }
    int place(int output) const { return output * stride - padding; }  // of its first tap
};

struct Convolution {
    int N, H, W, C, R, S;
    Axis vertical, horizontal;
};

// `pixels` outputs, from number m on, of a convolution's tap (r, s): each found from its number alone.
void im2col(const Convolution& v, int m, int r, int s, int c, int pixels) {
    constexpr int kChannels = 64;  // of a copy: the swizzle's 128 bytes
    const int P = v.vertical.outputs(v.H, v.R), Q = v.horizontal.outputs(v.W, v.S);
    const std::vector<std::uint16_t> values = counting(static_cast<std::size_t>(v.N) * v.H * v.W * v.C);
    DeviceArray<std::uint16_t> tensor(values);
    const auto size = [](int value) { return static_cast<std::uint64_t>(value); };
    // The last base position in steps from the first, counted from the end of the image.
    const int upper_w = v.horizontal.place(Q - 1) - (v.W - 1), upper_h = v.vertical.place(P - 1) - (v.H - 1);
    const ptx::TensorMap map = ptx::encode_im2col(
        tensor.data(), {size(v.C), size(v.W), size(v.H), size(v.N)},
        {size(v.C) * 2, size(v.W) * v.C * 2, size(v.H) * v.W * v.C * 2}, {-v.horizontal.padding, -v.vertical.padding},
        {upper_w, upper_h}, kChannels, static_cast<std::uint32_t>(pixels),
        {static_cast<std::uint32_t>(v.horizontal.stride), static_cast<std::uint32_t>(v.vertical.stride)},
        Swizzle::bytes_128);
    const int tap_h = r * v.vertical.dilation, tap_w = s * v.horizontal.dilation;
    std::vector<std::uint16_t> wanted;
    for (int i = m; i < m + pixels; ++i) {
        const int n = i / (P * Q), h = v.vertical.place(i / Q % P) + tap_h, w = v.horizontal.place(i % Q) + tap_w;
        for (int k = c; k < c + kChannels; ++k) {
            const bool there = n < v.N && h >= 0 && h < v.H && w >= 0 && w < v.W && k < v.C;
            wanted.push_back(there ? values[((static_cast<std::size_t>(n) * v.H + h) * v.W + w) * v.C + k]
                                   : std::uint16_t{0});
        }
    }
    const Pixels at = {c, v.horizontal.place(m % Q), v.vertical.place(m / Q % P), m / (P * Q), tap_w, tap_h};
    load(map, at, true, Swizzle::bytes_128, pixels, kChannels, wanted);
}

void test_tma_im2col() {
    const Axis plain = {1, 1, 1}, halved = {2, 1, 1};
    const Convolution thirteen = {2, 13, 13, 64, 3, 3, plain, plain};
    im2col(thirteen, 0, 0, 2, 0, 128);
    im2col(thirteen, 128, 0, 0, 0, 128);
    im2col(thirteen, 128, 2, 2, 0, 128);
    im2col(thirteen, 256, 1, 1, 0, 128);  // over the end of the last image
    const Convolution strided = {3, 14, 11, 40, 5, 3, halved, halved};
    im2col(strided, 0, 4, 2, 32, 24);  // over the end of the channels
    im2col(strided, 17, 1, 0, 0, 50);
    im2col({2, 9, 9, 48, 3, 3, {1, 0, 1}, {1, 0, 1}}, 45, 2, 1, 0, 64);
    im2col({1, 6, 6, 16, 5, 5, {1, 2, 1}, {1, 2, 1}}, 3, 0, 4, 0, 32);
}

// Steps up to the largest, taps that lie apart, and neither the same along both axes.
void test_tma_im2col_apart() {
    const Convolution first = {2, 31, 27, 16, 11, 11, {4, 2, 1}, {4, 2, 1}};  // AlexNet's first, small
    im2col(first, 0, 0, 0, 0, 64);
    im2col(first, 20, 10, 9, 0, 64);
    const Convolution third = {3, 19, 25, 24, 3, 4, {3, 2, 1}, {5, 3, 1}};
    im2col(third, 0, 2, 0, 0, 48);
    im2col(third, 31, 0, 3, 8, 70);
    const Convolution eighth = {2, 30, 41, 64, 3, 3, {8, 1, 1}, {7, 0, 1}};
    im2col(eighth, 3, 1, 2, 0, 40);
    const Convolution dilated = {2, 17, 15, 64, 3, 3, {1, 2, 2}, {1, 3, 3}};
    im2col(dilated, 0, 0, 2, 0, 128);
    im2col(dilated, 100, 2, 1, 0, 128);
    im2col(dilated, 211, 2, 2, 0, 300);  // over the end of the last image
    const Convolution both = {2, 40, 33, 8, 4, 3, {3, 5, 4}, {2, 6, 5}};
    im2col(both, 0, 3, 0, 0, 64);
    im2col(both, 77, 1, 2, 0, 128);
    const Convolution farthest = {1, 140, 130, 8, 2, 2, {1, 120, 120}, {1, 127, 127}};
    im2col(farthest, 4000, 1, 0, 0, 64);
    im2col(farthest, 4000, 0, 1, 0, 64);
}

// ---- TMA stores: the box that lies in shared memory, as far as the tensor goes

template <int kWidth>
__global__ void store_kernel(const __grid_constant__ ptx::TensorMap map, int c0, int c1, int c2, int rows) {
    auto* tile = ptx::dynamic_shared_memory<unsigned char>();
    for (int i = threadIdx.x; i < rows * kWidth / 2; i += blockDim.x) {
        const int byte = 2 * i, address = byte ^ (byte >> 7 & (kWidth / 16 - 1)) << 4;
        *reinterpret_cast<std::uint16_t*>(tile + address) = static_cast<std::uint16_t>(1000 + i);
    }
    ptx::fence_proxy_async();
    __syncthreads();
    if (threadIdx.x == 32) {
        for (int part = 0; part < 2; ++part) {  // the same box twice, in groups of their own
            ptx::tma_store_3d(map, ptx::shared_address(tile), c0, c1, c2 + part);
            ptx::tma_commit_group();
        }
        ptx::tma_wait_group_read<1>();
        ptx::tma_commit_group();  // of none: it is complete when those before it are
        ptx::tma_wait_group_read<0>();
        tile[0] = 0;
    }
}

template <int kWidth>
void store(Swizzle swizzle, int c0, int c1) {
    DeviceArray<std::uint16_t> tensor(std::vector<std::uint16_t>(4 * 6 * 40, 7));
    const std::uint32_t box[3] = {kWidth / 2, 4, 2};
    const ptx::TensorMap map = ptx::encode_tiled<3>(tensor.data(), {40, 6, 4}, {80, 480}, box, swizzle);
    ptx::launch("store", store_kernel<kWidth>, 1, 64, 8 * kWidth, nullptr, map, c0, c1, 0, 8);
    std::vector<std::uint16_t> wanted(4 * 6 * 40, 7);
    for (int part = 0; part < 2; ++part) {
        for (int i = 0; i < 8 * kWidth / 2; ++i) {
            const int x = c0 + i % (kWidth / 2), y = c1 + i / (kWidth / 2) % 4, z = part + i / (kWidth / 2) / 4;
            // The second box goes over the first one's second half; which of the two comes last is not said.
            if (part == 1 && z == 1) continue;
            const bool there = x >= 0 && x < 40 && y >= 0 && y < 6;
            if (there) wanted[(z * 6 + y) * 40 + x] = static_cast<std::uint16_t>(1000 + i);
        }
    }
    std::vector<std::uint16_t> got = tensor.download();
    for (int i = 240; i < 480; ++i) got[i] = wanted[i] = 0;  // z = 1, where both went
    expect_equal(got, wanted, "word");
}

void test_tma_store() {
    for (const int c0 : {0, 8, 16}) {
        store<32>(Swizzle::bytes_32, c0, 3);
        store<64>(Swizzle::bytes_64, c0, 3);
        store<128>(Swizzle::bytes_128, c0, 3);
    }
}

// ---- what PTX's description leaves open, and no kernel may count on: `alexkern verify` tells what a GPU does

// Boxes of 96 bytes a row, 128 apart, and as many bytes counted as there are values.
void test_narrow_boxes() {
    const std::vector<std::uint16_t> values = counting(16 * 48);
    DeviceArray<std::uint16_t> tensor(values);
    const auto map = ptx::encode_tiled<3>(tensor.data(), {48, 16, 1}, {96, 1536}, {48, 16, 1}, Swizzle::bytes_128);
    load(map, Pixels{0, 0, 0, 0, 0, 0}, false, Swizzle::bytes_128, 16, 48, values);
}

// Nothing is stored in front of the tensor.
void test_store_in_front() { store<128>(Swizzle::bytes_128, -8, -1); }

// ---- wgmma: d (64 x N) = a b + a b, K = 32, 48 or 64

template <Swizzle kSwizzle>
constexpr int kWidthOf = kSwizzle == Swizzle::bytes_128  ? 128
                         : kSwizzle == Swizzle::bytes_64 ? 64
                                                         : 32;

// a: 64 rows of K values, or K rows of 64; b: N rows of K, or K rows of N. Blocks of `width` bytes by so many rows.
template <typename T, int kN, Swizzle kSwizzle, bool kTransposed>
__global__ void wgmma_kernel(const __grid_constant__ ptx::TensorMap a, const __grid_constant__ ptx::TensorMap b,
                             float* d, int gemm_k) {
    constexpr int kWidth = kWidthOf<kSwizzle>, kPerRow = kWidth / 2;
    const std::uint32_t shared = ptx::shared_address(ptx::dynamic_shared_memory<unsigned char>());
    const int a_rows = kTransposed ? gemm_k : 64, b_rows = kTransposed ? gemm_k : kN;
    const int a_blocks = kTransposed ? 64 / kPerRow : gemm_k / kPerRow;
    const int b_blocks = kTransposed ? (kN + kPerRow - 1) / kPerRow : gemm_k / kPerRow;
    const std::uint32_t a_block = a_rows * kWidth, b_block = b_rows * kWidth;
    const std::uint32_t b_tiles = shared + a_blocks * a_block, mbarrier = b_tiles + b_blocks * b_block;
    set_up(mbarrier, 1);
    if (threadIdx.x / 32 == 0 && ptx::elect_one()) {
        ptx::mbarrier_arrive_expect_tx(mbarrier, a_blocks * a_block + b_blocks * b_block);
        for (int i = 0; i < a_blocks; ++i) ptx::tma_load_3d(shared + i * a_block, a, mbarrier, i * kPerRow, 0, 0);
        for (int i = 0; i < b_blocks; ++i) ptx::tma_load_3d(b_tiles + i * b_block, b, mbarrier, i * kPerRow, 0, 0);
    }
    __syncwarp();
    ptx::mbarrier_wait(mbarrier, 0);
    float sum[kN / 2] = {};
    ptx::wgmma_fence();
    for (int round = 0; round < 2; ++round) {
        for (int k = 0; k < gemm_k; k += 16) {
            std::uint64_t a_descriptor, b_descriptor;
            if (kTransposed) {
                a_descriptor = ptx::matrix_descriptor<kSwizzle>(shared + k * kWidth, 8 * kWidth, a_block);
                b_descriptor = ptx::matrix_descriptor<kSwizzle>(b_tiles + k * kWidth, 8 * kWidth, b_block);
            } else {
                const int block = k / kPerRow, inside = 2 * (k % kPerRow);
                a_descriptor = ptx::matrix_descriptor<kSwizzle>(shared + block * a_block + inside, 8 * kWidth);
                b_descriptor = ptx::matrix_descriptor<kSwizzle>(b_tiles + block * b_block + inside, 8 * kWidth);
            }
            ptx::wgmma<T, kN, kTransposed, kTransposed>(sum, a_descriptor, b_descriptor, round > 0 || k > 0);
        }
    }
    ptx::wgmma_commit_group();
    ptx::wgmma_wait_group<0>(sum);
    const int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
    for (int i = 0; i < kN / 2; ++i) {
        d[(16 * warp + g + 8 * (i / 2 % 2)) * kN + 8 * (i / 4) + 2 * t + i % 2] = sum[i];
    }
}

template <typename T>
std::vector<T> rounded(std::vector<float>& values) {
    std::vector<T> result;
    for (float& value : values) {
        value = static_cast<float>(static_cast<int>(value * 64)) / 64;  // exact in either type
        std::uint32_t bits;
        std::memcpy(&bits, &value, 4);
        if (std::is_same_v<T, bfloat16>) {
            result.push_back({static_cast<std::uint16_t>(bits >> 16)});
        } else {
            const std::uint32_t magnitude = bits & 0x7fffffff;
            const std::uint32_t half = magnitude == 0 ? 0 : (magnitude >> 13) - (112 << 10);
            result.push_back({static_cast<std::uint16_t>((bits >> 16 & 0x8000) | half)});
        }
    }
    return result;
}

template <typename T, int kN, Swizzle kSwizzle, bool kTransposed>
void multiply(int gemm_k) {
    constexpr std::uint32_t kPerRow = kWidthOf<kSwizzle> / 2;
    std::vector<float> a_values = harness::random_floats(64 * gemm_k, 1),
                       b_values = harness::random_floats(kN * gemm_k, 2);
    DeviceArray<T> a(rounded<T>(a_values)), b(rounded<T>(b_values));
    DeviceArray<float> d(std::vector<float>(64 * kN));
    const std::uint64_t K = gemm_k;
    const auto map = [&](const T* data, std::uint64_t extent) {
        const std::uint64_t inner = kTransposed ? extent : K, rows = kTransposed ? K : extent;
        const std::uint32_t box[3] = {kPerRow, static_cast<std::uint32_t>(rows), 1};
        return ptx::encode_tiled<3>(data, {inner, rows, 1}, {inner * 2, inner * rows * 2}, box, kSwizzle);
    };
    const int blocks = kTransposed ? (kN + kPerRow - 1) / kPerRow * kPerRow : kN;
    ptx::launch("wgmma", wgmma_kernel<T, kN, kSwizzle, kTransposed>, 1, 128, (64 + blocks) * gemm_k * 2 + 8, nullptr,
                map(a.data(), 64), map(b.data(), kN), d.data(), gemm_k);
    std::vector<double> wanted(64 * kN);
    for (int m = 0; m < 64; ++m) {
        for (int n = 0; n < kN; ++n) {
            for (int k = 0; k < gemm_k; ++k) {
                wanted[m * kN + n] += 2.0 * a_values[kTransposed ? k * 64 + m : m * gemm_k + k] *
                                      b_values[kTransposed ? k * kN + n : n * gemm_k + k];
            }
        }
    }
    expect_close(d.download(), wanted, 1e-4, "d");
}

template <typename T>
void test_wgmma() {
    multiply<T, 64, Swizzle::bytes_128, false>(64);
    multiply<T, 96, Swizzle::bytes_128, false>(64);
    multiply<T, 128, Swizzle::bytes_128, false>(128);
    multiply<T, 192, Swizzle::bytes_128, false>(64);
    multiply<T, 256, Swizzle::bytes_128, false>(64);
    multiply<T, 96, Swizzle::bytes_64, false>(32);
    multiply<T, 64, Swizzle::bytes_32, false>(32);
}

template <typename T>
void test_wgmma_transposed() {
    multiply<T, 64, Swizzle::bytes_128, true>(64);
    multiply<T, 96, Swizzle::bytes_128, true>(48);
    multiply<T, 256, Swizzle::bytes_128, true>(32);
    multiply<T, 128, Swizzle::bytes_64, true>(32);
    multiply<T, 64, Swizzle::bytes_32, true>(16);
}

// ---- stmatrix: element (row, column) of matrix j is 64 j + 8 row + column; rows go to every third place, last first

__global__ void stmatrix_kernel(std::uint16_t* output) {
    auto* const values = ptx::dynamic_shared_memory<std::uint16_t>();
    for (int i = threadIdx.x; i < 8 * 96; i += 32) values[i] = 0xeeee;
    __syncthreads();
    std::uint32_t registers[4];
    for (unsigned j = 0; j < 4; ++j) {
        const unsigned first = 64 * j + 8 * (threadIdx.x / 4) + 2 * (threadIdx.x % 4);
        registers[j] = (first + 1) << 16 | first;
    }
    ptx::stmatrix_x4(ptx::shared_address(values + 8 * 3 * (31 - threadIdx.x)), registers);
    __syncthreads();
    for (int i = threadIdx.x; i < 8 * 96; i += 32) output[i] = values[i];
}

void test_stmatrix() {
    DeviceArray<std::uint16_t> output(std::vector<std::uint16_t>(8 * 96));
    ptx::launch("stmatrix", stmatrix_kernel, 1, 32, 16 * 96, nullptr, output.data());
    std::vector<std::uint16_t> wanted(8 * 96, 0xeeee);
    for (int i = 0; i < 8 * 32; ++i) wanted[8 * 3 * (31 - i / 8) + i % 8] = static_cast<std::uint16_t>(i);
    expect_equal(output.download(), wanted, "value");
}

// ---- setmaxnreg: what two warpgroups give back, the third takes; elect.sync

__global__ void __launch_bounds__(384) registers_kernel(unsigned* output) {
    if (threadIdx.x < 256) {
        ptx::give_registers_back<40>();
    } else {
        ptx::take_registers<240>();
    }
    const bool elected = ptx::elect_one();
    output[threadIdx.x] = elected == ptx::elect_one() ? elected : 2;
}

void test_registers() {
    DeviceArray<unsigned> output(std::vector<unsigned>(384));
    ptx::launch("registers", registers_kernel, 1, 384, 0, nullptr, output.data());
    const std::vector<unsigned> elected = output.download();
    std::vector<unsigned> sums(12);
    for (unsigned i = 0; i < 384; ++i) sums[i / 32] += elected[i];
    expect_equal(sums, std::vector<unsigned>(12, 1), "lanes elected of warp");
}

}  // namespace

int main(int argc, char** argv) {
    return harness::run_cases(argc, argv,
                              {{"mbarrier", test_mbarrier},
                               {"tma_tile", test_tma_tile},
                               {"tma_im2col", test_tma_im2col},
                               {"tma_im2col_apart", test_tma_im2col_apart},
                               {"tma_store", test_tma_store},
                               {"narrow_boxes", test_narrow_boxes},
                               {"store_in_front", test_store_in_front},
                               {"wgmma_fp16", test_wgmma<float16>},
                               {"wgmma_bf16", test_wgmma<bfloat16>},
                               {"wgmma_transposed_fp16", test_wgmma_transposed<float16>},
                               {"wgmma_transposed_bf16", test_wgmma_transposed<bfloat16>},
                               {"stmatrix", test_stmatrix},
                               {"registers", test_registers}});
}
