// What orders accesses that run on by themselves, and what only seems to: small kernels with one fault each, next to
// the same kernel without it. Most of the faulty ones give the right result on a GPU on most days.
#include "../../cuda/ptx/cluster.cuh"
#include "../../cuda/ptx/ldmatrix.cuh"
#include "../../cuda/ptx/mbarrier.cuh"
#include "../../cuda/ptx/stmatrix.cuh"
#include "../../cuda/ptx/tma.cuh"
#include "../../cuda/ptx/wgmma.cuh"
#include "harness.h"

namespace {

using harness::DeviceArray;
using harness::expect_equal;
using ptx::bfloat16;
using ptx::Swizzle;

#if defined(__CUDA_ARCH__) && !defined(__CUDA_ARCH_FEAT_SM90_ALL)
#error "these kernels are for sm_90a"
#endif

// ---- a warpgroup adds a product of two matrices of ones, 64 x 16 and 16 x 64, to what its registers hold

enum class Product { right, written_behind_the_fence, waits_for_one_that_waits, rows_begin_anywhere };

constexpr std::uint32_t kMatrixBytes = 64 * 128;

template <Product kProduct>
__global__ void product_kernel(float* output) {
    auto* const words = ptx::dynamic_shared_memory<std::uint32_t>();
    const std::uint32_t shared = ptx::shared_address(words), mbarrier = shared + kMatrixBytes + 1024;
    for (unsigned i = threadIdx.x; i < (kMatrixBytes + 1024) / 4; i += blockDim.x) words[i] = 0x3f803f80;
    if (threadIdx.x == 0) ptx::mbarrier_init(mbarrier, 1);
    ptx::fence_proxy_async();
    __syncthreads();
    float sum[32];
    for (int i = 0; i < 32; ++i) sum[i] = static_cast<float>(i);
    if (kProduct != Product::written_behind_the_fence) sum[5] += 100;
    // The last warp comes when the first has told it to.
    if (threadIdx.x >= 96) ptx::mbarrier_wait(mbarrier, 0);
    ptx::wgmma_fence();
    if (kProduct == Product::written_behind_the_fence) sum[5] += 100;
    const auto matrix =
        ptx::matrix_descriptor<Swizzle::bytes_128>(shared + (kProduct == Product::rows_begin_anywhere ? 128 : 0), 1024);
    ptx::wgmma<bfloat16, 64, false, false>(sum, matrix, matrix, true);
    ptx::wgmma_commit_group();
    if (kProduct != Product::waits_for_one_that_waits && threadIdx.x == 0) ptx::mbarrier_arrive(mbarrier);
    ptx::wgmma_wait_group<0>(sum);
    if (kProduct == Product::waits_for_one_that_waits && threadIdx.x == 0) ptx::mbarrier_arrive(mbarrier);
    for (int i = 0; i < 32; ++i) output[32 * threadIdx.x + i] = sum[i];
}

template <Product kProduct>
void product() {
    DeviceArray<float> output(std::vector<float>(32 * 128));
    ptx::launch("product", product_kernel<kProduct>, 1, 128, kMatrixBytes + 1024 + 8, nullptr, output.data());
    std::vector<float> wanted;
    for (int i = 0; i < 32 * 128; ++i) wanted.push_back(static_cast<float>(16 + i % 32 + (i % 32 == 5 ? 100 : 0)));
    expect_equal(output.download(), wanted, "sum");
}

// ---- where shared memory begins is not for a kernel to know

enum class Base { right, taken_for_granted };

template <Base kBase>
__global__ void base_kernel(unsigned* output) {
    auto* const words = ptx::dynamic_shared_memory<unsigned>();
    words[threadIdx.x] = threadIdx.x;
    __syncwarp();
    std::uint32_t registers[1];
    ptx::ldmatrix_x1(registers, (kBase == Base::right ? ptx::shared_address(words) : 1024) + threadIdx.x % 8 * 16);
    output[threadIdx.x] = registers[0];
}

template <Base kBase>
void base() {
    DeviceArray<unsigned> output(std::vector<unsigned>(32));
    ptx::launch("base", base_kernel<kBase>, 1, 32, 128, nullptr, output.data());
    std::vector<unsigned> wanted;
    for (unsigned i = 0; i < 32; ++i) wanted.push_back(i);
    expect_equal(output.download(), wanted, "word");
}

// ---- a warp stores 16 rows of 64 or 32 values as a product leaves them, in vectors of 16 bytes; another reads them

enum class Staged { right, no_swizzle, no_barrier };

// As TMA's swizzle for rows of so many bytes has it.
template <Staged kStaged, unsigned kRowBytes>
__device__ unsigned vector_offset(unsigned row, unsigned vector) {
    const unsigned byte = kRowBytes * row + 16 * vector;
    return kStaged == Staged::no_swizzle ? byte : byte ^ (byte >> 7 & (kRowBytes / 16 - 1)) << 4;
}

template <Staged kStaged, unsigned kRowBytes>
__global__ void staged_kernel(unsigned* output) {
    auto* const tile = ptx::dynamic_shared_memory<unsigned char>();
    const unsigned lane = threadIdx.x % 32;
    constexpr unsigned kWords = kRowBytes / 4;
    for (unsigned vector = 0; threadIdx.x < 32 && vector < kWords / 4; vector += 2) {
        std::uint32_t registers[4];
        for (unsigned j = 0; j < 4; ++j) {
            registers[j] = kWords * (j % 2 * 8 + lane / 4) + 4 * (vector + j / 2) + lane % 4;
        }
        const unsigned offset = vector_offset<kStaged, kRowBytes>(lane % 16, vector + lane / 16);
        ptx::stmatrix_x4(ptx::shared_address(tile) + offset, registers);
    }
    if (kStaged != Staged::no_barrier) __syncthreads();
    for (unsigned i = lane; threadIdx.x >= 32 && i < 16 * kWords; i += 32) {
        const unsigned offset = vector_offset<kStaged, kRowBytes>(i / kWords, i % kWords / 4) + i % 4 * 4;
        output[i] = *reinterpret_cast<const unsigned*>(tile + offset);
    }
}

template <Staged kStaged, unsigned kRowBytes>
void staged_rows() {
    DeviceArray<unsigned> output(std::vector<unsigned>(4 * kRowBytes));
    ptx::launch("staged", staged_kernel<kStaged, kRowBytes>, 1, 64, 16 * kRowBytes, nullptr, output.data());
    std::vector<unsigned> wanted;
    for (unsigned i = 0; i < 4 * kRowBytes; ++i) wanted.push_back(i);
    expect_equal(output.download(), wanted, "word");
#ifndef __CUDACC__
    const auto conflicts = emulator::statistics().stmatrix_bank_conflicts;
    if (conflicts != 0) throw std::runtime_error("bank conflicts: " + std::to_string(conflicts));
#endif
}

template <Staged kStaged>
void staged() {
    staged_rows<kStaged, 128>();
    staged_rows<kStaged, 64>();
}

// ---- a block loads eight rows of 64 values by TMA, and one thread's word goes to another beside them

enum class Load { right, fenced_by_another, word_by_the_cluster };

template <Load kLoad>
__global__ void load_kernel(const __grid_constant__ ptx::TensorMap map, std::uint16_t* output, unsigned* word_seen) {
    auto* const tile = ptx::dynamic_shared_memory<std::uint16_t>();
    const std::uint32_t shared = ptx::shared_address(tile), mbarrier = shared + 1024;
    auto* const word = reinterpret_cast<unsigned*>(tile + 512 + 4);
    if (threadIdx.x == 0) {
        *word = 7;
        ptx::mbarrier_init(mbarrier, 1);
        if (kLoad != Load::fenced_by_another) ptx::fence_mbarrier_init();
    }
    if (kLoad != Load::word_by_the_cluster) __syncthreads();
    if (kLoad == Load::fenced_by_another && threadIdx.x == 32) ptx::fence_mbarrier_init();
    ptx::cluster_arrive_relaxed();
    ptx::cluster_wait();
    if (threadIdx.x == 32) {
        *word_seen = *word;
        ptx::mbarrier_arrive_expect_tx(mbarrier, 1024);
        ptx::tma_load_3d(shared, map, mbarrier, 0, 0, 0);
    }
    ptx::mbarrier_wait(mbarrier, 0);
    for (int i = threadIdx.x; i < 512; i += blockDim.x) output[i] = tile[i];
}

template <typename T>
ptx::TensorMap rows_of(const DeviceArray<T>& values) {
    return ptx::encode_tiled<3>(values.data(), {64, 1, 8}, {128, 128}, {64, 1, 8}, Swizzle::none);
}

std::vector<std::uint16_t> counting() {
    std::vector<std::uint16_t> values;
    for (int i = 0; i < 512; ++i) values.push_back(static_cast<std::uint16_t>(i));
    return values;
}

template <Load kLoad>
void load() {
    DeviceArray<std::uint16_t> values(counting()), output(std::vector<std::uint16_t>(512));
    DeviceArray<unsigned> word_seen(std::vector<unsigned>(1));
    ptx::launch("load", load_kernel<kLoad>, 1, 64, 1024 + 12, nullptr, rows_of(values), output.data(),
                word_seen.data());
    expect_equal(output.download(), counting(), "value");
    expect_equal(word_seen.download(), {7u}, "word");
}

// ---- rows go through global memory: written by one kernel and copied by the next, or both by one

enum class Global { right, written_and_loaded, stored_and_read };

__device__ void wait_for_rows(const ptx::TensorMap& map, std::uint32_t shared) {
    const std::uint32_t mbarrier = shared + 1024;
    if (threadIdx.x == 0) {
        ptx::mbarrier_init(mbarrier, 1);
        ptx::fence_mbarrier_init();
        ptx::mbarrier_arrive_expect_tx(mbarrier, 1024);
        ptx::tma_load_3d(shared, map, mbarrier, 0, 0, 0);
    }
    __syncthreads();
    ptx::mbarrier_wait(mbarrier, 0);
}

// By ordinary means, or by TMA; the one that follows reads them by the other.
template <bool kByTma>
__device__ void write_rows(const ptx::TensorMap& map, std::uint16_t* rows) {
    auto* const tile = ptx::dynamic_shared_memory<std::uint16_t>();
    auto* const into = kByTma ? tile : rows;
    for (int i = threadIdx.x; i < 512; i += blockDim.x) into[i] = static_cast<std::uint16_t>(i);
    if (kByTma) ptx::fence_proxy_async();
    __syncthreads();
    if (kByTma && threadIdx.x == 0) {
        ptx::tma_store_3d(map, ptx::shared_address(tile), 0, 0, 0);
        ptx::tma_commit_group();
        ptx::tma_wait_group_read<0>();
    }
    __syncthreads();
}

template <bool kByTma>
__device__ void copy_rows(const ptx::TensorMap& map, const std::uint16_t* rows, std::uint16_t* output) {
    auto* const tile = ptx::dynamic_shared_memory<std::uint16_t>();
    if (!kByTma) wait_for_rows(map, ptx::shared_address(tile));
    for (int i = threadIdx.x; i < 512; i += blockDim.x) output[i] = kByTma ? rows[i] : tile[i];
}

template <bool kByTma, bool kWrites, bool kCopies>
__global__ void global_kernel(const __grid_constant__ ptx::TensorMap map, std::uint16_t* rows, std::uint16_t* output) {
    if (kWrites) write_rows<kByTma>(map, rows);
    if (kCopies) copy_rows<kByTma>(map, rows, output);
}

template <bool kByTma, bool kAtOnce>
void through_global() {
    DeviceArray<std::uint16_t> rows(std::vector<std::uint16_t>(512)), output(std::vector<std::uint16_t>(512));
    const auto map = rows_of(rows);
    const auto launch = [&](auto kernel) {
        ptx::launch("global", kernel, 1, 64, 1024 + 8, nullptr, map, rows.data(), output.data());
    };
    if (!kAtOnce) launch(global_kernel<kByTma, true, false>);
    launch(global_kernel<kByTma, kAtOnce, true>);
    expect_equal(output.download(), counting(), "value");
}

template <Global kGlobal>
void global() {
    if (kGlobal != Global::stored_and_read) through_global<false, kGlobal == Global::written_and_loaded>();
    if (kGlobal != Global::written_and_loaded) through_global<true, kGlobal == Global::stored_and_read>();
}

}  // namespace

int main(int argc, char** argv) {
    return harness::run_cases(argc, argv,
                              {{"product", product<Product::right>},
                               {"product.written_behind_the_fence", product<Product::written_behind_the_fence>},
                               {"product.waits_for_one_that_waits", product<Product::waits_for_one_that_waits>},
                               {"product.rows_begin_anywhere", product<Product::rows_begin_anywhere>},
                               {"base", base<Base::right>},
                               {"base.taken_for_granted", base<Base::taken_for_granted>},
                               {"staged", staged<Staged::right>},
                               {"staged.no_swizzle", staged<Staged::no_swizzle>},
                               {"staged.no_barrier", staged<Staged::no_barrier>},
                               {"load", load<Load::right>},
                               {"load.fenced_by_another", load<Load::fenced_by_another>},
                               {"load.word_by_the_cluster", load<Load::word_by_the_cluster>},
                               {"global", global<Global::right>},
                               {"global.written_and_loaded", global<Global::written_and_loaded>},
                               {"global.stored_and_read", global<Global::stored_and_read>}});
}
