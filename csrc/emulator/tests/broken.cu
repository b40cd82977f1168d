// Kernels with one fault each, next to the same kernel without it. Every fault must be found, and nothing else: the
// test that runs these says which check has to find which fault.
#include "../../cuda/ptx/barrier.cuh"
#include "../../cuda/ptx/cp_async.cuh"
#include "../../cuda/ptx/ldmatrix.cuh"
#include "harness.h"

namespace {

using harness::DeviceArray;
using harness::expect_equal;

std::vector<unsigned> counting(unsigned count) {
    std::vector<unsigned> values(count);
    for (unsigned i = 0; i < count; ++i) values[i] = i + 1;
    return values;
}

// ---- a block turns its part of an array around through shared memory

enum class Turn { right, no_barrier, half_the_block_at_the_barrier, early_return, two_barriers_in_one_warp };

template <Turn kTurn>
__global__ void turn_kernel(const unsigned* input, unsigned* output) {
    auto* words = ptx::dynamic_shared_memory<unsigned>();
    const unsigned first = blockIdx.x * blockDim.x;
    if (kTurn == Turn::early_return && threadIdx.x == 37) return;
    words[threadIdx.x] = input[first + threadIdx.x];
    if (kTurn == Turn::half_the_block_at_the_barrier) {
        if (threadIdx.x < blockDim.x / 2) __syncthreads();
    } else if (kTurn == Turn::two_barriers_in_one_warp && threadIdx.x % 2 == 0) {
        __syncthreads();
    } else if (kTurn != Turn::no_barrier) {
        __syncthreads();
    }
    output[first + threadIdx.x] = words[blockDim.x - 1 - threadIdx.x];
    if (kTurn == Turn::half_the_block_at_the_barrier && threadIdx.x >= blockDim.x / 2) ptx::bar_sync(1, blockDim.x);
}

template <Turn kTurn>
void turn() {
    constexpr unsigned kThreads = 128, kBlocks = 3;
    const std::vector<unsigned> input = counting(kThreads * kBlocks);
    DeviceArray<unsigned> device_input(input), output(std::vector<unsigned>(input.size()));
    ptx::launch("turn", turn_kernel<kTurn>, kBlocks, kThreads, kThreads * 4, nullptr, device_input.data(),
                output.data());
    std::vector<unsigned> wanted;
    for (unsigned i = 0; i < input.size(); ++i)
        wanted.push_back(input[i / kThreads * kThreads + kThreads - 1 - i % kThreads]);
    expect_equal(output.download(), wanted, "word");
}

// ---- a ring of cp.async stages: each step sums a row that another thread fetched

enum class Ring { right, wait_one_short, no_wait, no_commit, wait_behind_the_barrier, refill_before_barrier };

template <Ring kRing>
__global__ void ring_kernel(const uint4* input, unsigned* output, int steps) {
    constexpr int kStages = 3;
    auto* ring = ptx::dynamic_shared_memory<uint4>();  // [kStages][blockDim.x]
    const auto fetch = [&](int step) {
        if (step < steps) {
            uint4* into = ring + step % kStages * blockDim.x + threadIdx.x;
            ptx::cp_async_16(ptx::shared_address(into), input + step * blockDim.x + threadIdx.x);
        }
        if (kRing != Ring::no_commit || step != steps - 1) ptx::cp_async_commit_group();
    };
    for (int step = 0; step < kStages - 1; ++step) fetch(step);
    unsigned sum = 0;
    for (int step = 0; step < steps; ++step) {
        if (kRing == Ring::wait_behind_the_barrier) __syncthreads();
        if (kRing == Ring::wait_one_short) {
            ptx::cp_async_wait_group<kStages - 1>();
        } else if (kRing != Ring::no_wait) {
            ptx::cp_async_wait_group<kStages - 2>();
        }
        // Overwrites the row that others may be reading still, in the step before.
        if (kRing == Ring::refill_before_barrier) fetch(step + kStages - 1);
        if (kRing != Ring::wait_behind_the_barrier) __syncthreads();
        if (kRing != Ring::refill_before_barrier) fetch(step + kStages - 1);
        const uint4 row = ring[step % kStages * blockDim.x + (threadIdx.x + 33) % blockDim.x];
        sum += row.x + row.y + row.z + row.w;
    }
    output[threadIdx.x] = sum;
}

template <Ring kRing>
void ring() {
    constexpr unsigned kThreads = 64;
    constexpr int kSteps = 8;
    const std::vector<unsigned> input = counting(kThreads * kSteps * 4);
    DeviceArray<unsigned> device_input(input), output(std::vector<unsigned>(kThreads, 0u));
    ptx::launch("ring", ring_kernel<kRing>, 1, kThreads, 3 * kThreads * 16, nullptr,
                reinterpret_cast<const uint4*>(device_input.data()), output.data(), kSteps);
    std::vector<unsigned> wanted(kThreads);
    for (unsigned thread = 0; thread < kThreads; ++thread) {
        for (unsigned step = 0; step < kSteps; ++step) {
            for (unsigned i = 0; i < 4; ++i)
                wanted[thread] += input[4 * (step * kThreads + (thread + 33) % kThreads) + i];
        }
    }
    expect_equal(output.download(), wanted, "sum");
}

// ---- rows of 64 16-bit values, stored in vectors of 16 bytes, read back as 8x8 matrices

enum class Swizzle { right, none, read_otherwise, too_narrow };

template <Swizzle kSwizzle>
__device__ unsigned vector_offset(unsigned row, unsigned vector, bool reading) {
    if (kSwizzle == Swizzle::none) return 128 * row + 16 * vector;
    // Rows that differ in what is left out of the mask share a place in the banks.
    if (kSwizzle == Swizzle::too_narrow) return 128 * row + 16 * (vector ^ (row & 3));
    if (kSwizzle == Swizzle::read_otherwise && reading) return 128 * row + 16 * (vector ^ (row >> 1 & 7));
    return 128 * row + 16 * (vector ^ (row & 7));
}

template <Swizzle kSwizzle>
__global__ void swizzle_kernel(const uint4* input, unsigned* output) {
    auto* tile = ptx::dynamic_shared_memory<unsigned char>();  // [32][8 vectors of 16 bytes]
    for (unsigned i = threadIdx.x; i < 32 * 8; i += 32) {
        *reinterpret_cast<uint4*>(tile + vector_offset<kSwizzle>(i / 8, i % 8, false)) = input[i];
    }
    __syncthreads();
    for (unsigned vector = 0; vector < 8; ++vector) {
        std::uint32_t registers[4];
        ptx::ldmatrix_x4(registers, ptx::shared_address(tile) + vector_offset<kSwizzle>(threadIdx.x, vector, true));
        for (unsigned j = 0; j < 4; ++j) {
            output[32 * (8 * j + threadIdx.x / 4) + 4 * vector + threadIdx.x % 4] = registers[j];
        }
    }
}

template <Swizzle kSwizzle>
void swizzle() {
    const std::vector<unsigned> input = counting(32 * 32);
    DeviceArray<unsigned> device_input(input), output(std::vector<unsigned>(input.size(), 0u));
    ptx::launch("swizzle", swizzle_kernel<kSwizzle>, 1, 32, 32 * 128, nullptr,
                reinterpret_cast<const uint4*>(device_input.data()), output.data());
    expect_equal(output.download(), input, "word");
#ifndef __CUDACC__
    const auto conflicts = emulator::statistics().ldmatrix_bank_conflicts;
    if (conflicts != 0) throw std::runtime_error("bank conflicts: " + std::to_string(conflicts));
#endif
}

// ---- a warp's sum by shuffles

enum class Sum { right, lane_stays_away, lane_takes_another_way, mask_too_small, reads_beyond_mask };

template <Sum kSum>
__global__ void sum_kernel(const unsigned* input, unsigned* output) {
    unsigned sum = input[threadIdx.x];
    const unsigned lane = threadIdx.x % 32;
    const unsigned mask = kSum == Sum::mask_too_small ? 0x7fffffffu : 0xffffffffu;
    for (int distance = 16; distance > 0; distance /= 2) {
        if (kSum == Sum::lane_stays_away && lane == 31 && distance == 2) continue;
        if (kSum == Sum::lane_takes_another_way && lane == 7 && distance == 4) {
            sum += __shfl_up_sync(mask, sum, 4);
        } else if (kSum == Sum::reads_beyond_mask) {
            if (lane < 16) sum += __shfl_xor_sync(0x0000ffffu, sum, distance);
        } else {
            sum += __shfl_xor_sync(mask, sum, distance);
        }
    }
    output[threadIdx.x] = sum;
}

template <Sum kSum>
void sum() {
    const std::vector<unsigned> input = counting(64);
    DeviceArray<unsigned> device_input(input), output(std::vector<unsigned>(64));
    ptx::launch("sum", sum_kernel<kSum>, 1, 64, 0, nullptr, device_input.data(), output.data());
    std::vector<unsigned> wanted(64, 32 * 33 / 2);
    for (unsigned i = 32; i < 64; ++i) wanted[i] += 32 * 32;
    expect_equal(output.download(), wanted, "sum");
}

// ---- a sum over three neighbours, with a halo

enum class Halo { right, one_too_far, one_before, shared_too_small, shared_before };

template <Halo kHalo>
__global__ void halo_kernel(const unsigned* input, unsigned* output, int count) {
    auto* tile = ptx::dynamic_shared_memory<unsigned>();  // [blockDim.x + 2], from one before the block's first
    const int thread = static_cast<int>(threadIdx.x);
    const int first = static_cast<int>(blockIdx.x * blockDim.x);
    const int tile_size = static_cast<int>(blockDim.x) + (kHalo == Halo::shared_too_small ? 3 : 2);
    const int lowest = kHalo == Halo::one_before ? -1 : 0;
    const int highest = kHalo == Halo::one_too_far ? count : count - 1;
    for (int i = thread; i < tile_size; i += static_cast<int>(blockDim.x)) {
        const int at = first + i - 1;
        tile[kHalo == Halo::shared_before ? i - 1 : i] = at >= lowest && at <= highest ? input[at] : 0;
    }
    __syncthreads();
    if (first + thread < count) {
        const unsigned* at = kHalo == Halo::shared_before ? tile - 1 : tile;
        output[first + thread] = at[thread] + at[thread + 1] + at[thread + 2];
    }
}

template <Halo kHalo>
void halo() {
    constexpr unsigned kThreads = 62, kCount = 4 * 60;  // the tile fills 256 bytes, the array a multiple of 16
    const std::vector<unsigned> input = counting(kCount);
    DeviceArray<unsigned> device_input(input), output(std::vector<unsigned>(kCount, 0u));
    ptx::launch("halo", halo_kernel<kHalo>, (kCount + kThreads - 1) / kThreads, kThreads, (kThreads + 2) * 4, nullptr,
                device_input.data(), output.data(), static_cast<int>(kCount));
    std::vector<unsigned> wanted;
    for (unsigned i = 0; i < kCount; ++i) {
        wanted.push_back((i > 0 ? input[i - 1] : 0) + input[i] + (i + 1 < kCount ? input[i + 1] : 0));
    }
    expect_equal(output.download(), wanted, "sum");
}

// ---- rounds of write and read; the values never change, so that a race changes no result

enum class Rounds { right, write_after_read, read_after_write };

template <Rounds kRounds>
__global__ void rounds_kernel(unsigned* output) {
    auto* words = ptx::dynamic_shared_memory<unsigned>();
    unsigned sum = 0;
    words[threadIdx.x] = 3;
    __syncthreads();
    for (int round = 0; round < 4; ++round) {
        words[threadIdx.x] = 3;
        if (kRounds != Rounds::read_after_write) __syncthreads();
        sum += words[(threadIdx.x + 32) % blockDim.x];
        if (kRounds != Rounds::write_after_read) __syncthreads();
    }
    output[threadIdx.x] = sum;
}

template <Rounds kRounds>
void rounds() {
    DeviceArray<unsigned> output(std::vector<unsigned>(64));
    ptx::launch("rounds", rounds_kernel<kRounds>, 1, 64, 256, nullptr, output.data());
    expect_equal(output.download(), std::vector<unsigned>(64, 12u), "sum");
}

// ---- lanes of one warp exchange through shared memory: a shuffle brings them together but orders nothing

enum class Lanes { right, shuffle_for_barrier };

template <Lanes kLanes>
__global__ void lanes_kernel(unsigned* output) {
    auto* words = ptx::dynamic_shared_memory<unsigned>();
    words[threadIdx.x] = threadIdx.x;
    if (kLanes == Lanes::right) {
        __syncwarp();
    } else {
        words[threadIdx.x] = __shfl_xor_sync(0xffffffffu, threadIdx.x, 0);
        __shfl_xor_sync(0xffffffffu, 0u, 1);
    }
    output[threadIdx.x] = words[threadIdx.x ^ 1];
}

template <Lanes kLanes>
void lanes() {
    DeviceArray<unsigned> output(std::vector<unsigned>(32));
    ptx::launch("lanes", lanes_kernel<kLanes>, 1, 32, 128, nullptr, output.data());
    std::vector<unsigned> wanted;
    for (unsigned i = 0; i < 32; ++i) wanted.push_back(i ^ 1);
    expect_equal(output.download(), wanted, "word");
}

// ---- blocks add up their parts; the last to finish adds the parts

enum class Blocks { right, no_fence, overlap };

template <Blocks kBlocks>
__global__ void blocks_kernel(unsigned* parts, unsigned* finished, unsigned* output) {
    auto* is_last = ptx::dynamic_shared_memory<unsigned>();
    parts[blockIdx.x * blockDim.x + threadIdx.x] = blockIdx.x + 1;
    if (kBlocks == Blocks::overlap && blockIdx.x > 0 && threadIdx.x == 0)
        parts[blockIdx.x * blockDim.x - 1] = blockIdx.x;
    __syncthreads();
    if (threadIdx.x == 0) {
        if (kBlocks != Blocks::no_fence) __threadfence();
        *is_last = atomicAdd(finished, 1) == gridDim.x - 1;
        if (kBlocks != Blocks::no_fence) __threadfence();
    }
    __syncthreads();
    if (!*is_last) return;
    unsigned sum = 0;
    for (unsigned block = 0; block < gridDim.x; ++block) sum += parts[block * blockDim.x + threadIdx.x];
    output[threadIdx.x] = sum;
}

template <Blocks kBlocks>
void blocks() {
    DeviceArray<unsigned> parts(std::vector<unsigned>(4 * 32)), finished({0u}), output(std::vector<unsigned>(32));
    ptx::launch("blocks", blocks_kernel<kBlocks>, 4, 32, 4, nullptr, parts.data(), finished.data(), output.data());
    expect_equal(output.download(), std::vector<unsigned>(32, 10u), "sum");
}

// ---- accesses that are not aligned, addresses that are not shared, barriers that nobody completes

enum class Access {
    right,
    misaligned_vector,
    misaligned_ldmatrix,
    misaligned_cp_async,
    ldmatrix_outside,
    cp_async_outside,
    address_of_global,
    null_pointer,
    stack_overflow,
    endless_loop
};

__device__ unsigned deep(unsigned calls, unsigned value) {
    volatile unsigned frame[64];
    frame[calls % 64] = value;
    return calls == 0 ? frame[0] : deep(calls - 1, frame[calls % 64] + 1) + frame[calls % 64];
}

template <Access kAccess>
__global__ void access_kernel(const unsigned* input, unsigned* output, unsigned calls) {
    auto* words = ptx::dynamic_shared_memory<unsigned>();  // [128]
    const unsigned bad = threadIdx.x == 9 ? 1 : 0;
    const std::uint32_t address = ptx::shared_address(words);
    const std::uint32_t into = address + 16 * threadIdx.x + (kAccess == Access::misaligned_cp_async ? 4 * bad : 0) +
                               (kAccess == Access::cp_async_outside ? 512 * bad : 0);
    ptx::cp_async_16(into, input + 4 * threadIdx.x);
    ptx::cp_async_commit_group();
    ptx::cp_async_wait_group<0>();
    __syncthreads();
    if (kAccess == Access::address_of_global && bad) output[0] = ptx::shared_address(input);
    if (kAccess == Access::stack_overflow && bad) output[0] = deep(calls, 1);
    if (kAccess == Access::null_pointer && bad) output = nullptr;
    if (kAccess == Access::endless_loop && bad) {
        while (*static_cast<volatile const unsigned*>(input) != 0) {
        }
    }
    std::uint32_t registers[1];
    ptx::ldmatrix_x1(registers, address + 16 * (threadIdx.x % 8) +
                                    (kAccess == Access::misaligned_ldmatrix && threadIdx.x == 3 ? 8 : 0) +
                                    (kAccess == Access::ldmatrix_outside && threadIdx.x == 3 ? 480 : 0));
    const auto* vectors = reinterpret_cast<const uint4*>(words + (kAccess == Access::misaligned_vector ? bad : 0));
    *reinterpret_cast<uint4*>(output + 4 * threadIdx.x) = vectors[threadIdx.x];
}

template <Access kAccess>
void access() {
#ifndef __CUDACC__
    emulator::options().patience = 0.5;
#endif
    const std::vector<unsigned> input = counting(128);
    DeviceArray<unsigned> device_input(input), output(std::vector<unsigned>(128));
    ptx::launch("access", access_kernel<kAccess>, 1, 32, 512, nullptr, device_input.data(), output.data(), 1000000u);
    expect_equal(output.download(), input, "word");
}

enum class Named { right, other_count, count_not_whole_warps, crossed, too_few };

template <Named kNamed>
__global__ void named_kernel(unsigned* output) {
    auto* words = ptx::dynamic_shared_memory<unsigned>();
    words[threadIdx.x] = threadIdx.x;
    if (kNamed == Named::count_not_whole_warps) ptx::bar_sync(1, 48);
    if (kNamed == Named::crossed) {
        ptx::bar_sync(threadIdx.x < 32 ? 1 : 2, 64);
        ptx::bar_sync(threadIdx.x < 32 ? 2 : 1, 64);
    } else if (kNamed == Named::other_count) {
        ptx::bar_sync(1, threadIdx.x < 32 ? 64 : 96);
    } else if (kNamed == Named::too_few) {
        if (threadIdx.x < 64) ptx::bar_sync(1, 96);
    } else {
        ptx::bar_sync(1, 96);
    }
    output[threadIdx.x] = words[(threadIdx.x + 32) % 96];
}

template <Named kNamed>
void named() {
    DeviceArray<unsigned> output(std::vector<unsigned>(96));
    ptx::launch("named", named_kernel<kNamed>, 1, 96, 96 * 4, nullptr, output.data());
    std::vector<unsigned> wanted;
    for (unsigned i = 0; i < 96; ++i) wanted.push_back((i + 32) % 96);
    expect_equal(output.download(), wanted, "word");
}

}  // namespace

int main(int argc, char** argv) {
    return harness::run_cases(argc, argv,
                              {{"turn", turn<Turn::right>},
                               {"turn.no_barrier", turn<Turn::no_barrier>},
                               {"turn.half_the_block_at_the_barrier", turn<Turn::half_the_block_at_the_barrier>},
                               {"turn.early_return", turn<Turn::early_return>},
                               {"turn.two_barriers_in_one_warp", turn<Turn::two_barriers_in_one_warp>},
                               {"ring", ring<Ring::right>},
                               {"ring.wait_one_short", ring<Ring::wait_one_short>},
                               {"ring.no_wait", ring<Ring::no_wait>},
                               {"ring.no_commit", ring<Ring::no_commit>},
                               {"ring.wait_behind_the_barrier", ring<Ring::wait_behind_the_barrier>},
                               {"ring.refill_before_barrier", ring<Ring::refill_before_barrier>},
                               {"swizzle", swizzle<Swizzle::right>},
                               {"swizzle.none", swizzle<Swizzle::none>},
                               {"swizzle.read_otherwise", swizzle<Swizzle::read_otherwise>},
                               {"swizzle.too_narrow", swizzle<Swizzle::too_narrow>},
                               {"sum", sum<Sum::right>},
                               {"sum.lane_stays_away", sum<Sum::lane_stays_away>},
                               {"sum.lane_takes_another_way", sum<Sum::lane_takes_another_way>},
                               {"sum.mask_too_small", sum<Sum::mask_too_small>},
                               {"sum.reads_beyond_mask", sum<Sum::reads_beyond_mask>},
                               {"halo", halo<Halo::right>},
                               {"halo.one_too_far", halo<Halo::one_too_far>},
                               {"halo.one_before", halo<Halo::one_before>},
                               {"halo.shared_too_small", halo<Halo::shared_too_small>},
                               {"halo.shared_before", halo<Halo::shared_before>},
                               {"rounds", rounds<Rounds::right>},
                               {"rounds.write_after_read", rounds<Rounds::write_after_read>},
                               {"rounds.read_after_write", rounds<Rounds::read_after_write>},
                               {"lanes", lanes<Lanes::right>},
                               {"lanes.shuffle_for_barrier", lanes<Lanes::shuffle_for_barrier>},
                               {"blocks", blocks<Blocks::right>},
                               {"blocks.no_fence", blocks<Blocks::no_fence>},
                               {"blocks.overlap", blocks<Blocks::overlap>},
                               {"access", access<Access::right>},
                               {"access.misaligned_vector", access<Access::misaligned_vector>},
                               {"access.misaligned_ldmatrix", access<Access::misaligned_ldmatrix>},
                               {"access.misaligned_cp_async", access<Access::misaligned_cp_async>},
                               {"access.ldmatrix_outside", access<Access::ldmatrix_outside>},
                               {"access.cp_async_outside", access<Access::cp_async_outside>},
                               {"access.address_of_global", access<Access::address_of_global>},
                               {"access.null_pointer", access<Access::null_pointer>},
                               {"access.stack_overflow", access<Access::stack_overflow>},
                               {"access.endless_loop", access<Access::endless_loop>},
                               {"named", named<Named::right>},
                               {"named.other_count", named<Named::other_count>},
                               {"named.count_not_whole_warps", named<Named::count_not_whole_warps>},
                               {"named.crossed", named<Named::crossed>},
                               {"named.too_few", named<Named::too_few>}});
}
