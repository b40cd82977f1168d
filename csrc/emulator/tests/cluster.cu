// Clusters: what each wrapper of csrc/cuda/ptx for them does, and two blocks that share what they fetch, next to the
// same with one fault each, every one of which must be found. The wrappers' part runs on the emulator and on a GPU
// alike.
#include "../../cuda/ptx/cluster.cuh"
#include "../../cuda/ptx/mbarrier.cuh"
#include "../../cuda/ptx/tma.cuh"
#include "harness.h"

namespace {

using harness::DeviceArray;
using harness::expect_equal;
using ptx::Swizzle;

#if defined(__CUDA_ARCH__) && !defined(__CUDA_ARCH_FEAT_SM90_ALL)
#error "these wrappers are for sm_90a"
#endif

std::vector<std::uint16_t> counting(std::size_t count) {
    std::vector<std::uint16_t> values(count);
    for (std::size_t i = 0; i < count; ++i) values[i] = static_cast<std::uint16_t>(i % 1009);
    return values;
}

// ---- ranks, mapped addresses, arrivals at others' barriers: a token goes round the cluster

__global__ void ring_kernel(unsigned* output, unsigned blocks, int rounds) {
    const std::uint32_t mbarrier = ptx::shared_address(ptx::dynamic_shared_memory<unsigned char>());
    const std::uint32_t rank = ptx::cluster_rank();
    if (threadIdx.x == 0) {
        ptx::mbarrier_init(mbarrier, 1);
        ptx::fence_mbarrier_init();
    }
    ptx::cluster_arrive_relaxed();
    ptx::cluster_wait();
    for (int round = 0; round < rounds; ++round) {
        // Block 0 sends the token off, and has it back at the end of the round.
        const bool first = rank == 0;
        if (!first) ptx::mbarrier_wait(mbarrier, round & 1);
        __syncwarp();
        if (threadIdx.x == 0) ptx::mbarrier_arrive_cluster(ptx::map_shared(mbarrier, (rank + 1) % blocks));
        if (first) ptx::mbarrier_wait(mbarrier, round & 1);
        __syncwarp();
    }
    output[32 * blockIdx.x + threadIdx.x] = 100 * rank + rounds;
}

void test_ranks_and_arrivals() {
    for (const unsigned blocks : {1u, 2u, 4u}) {
        const unsigned grid = 3 * blocks;
        DeviceArray<unsigned> output(std::vector<unsigned>(32 * grid));
        ptx::launch_clusters("ring", ring_kernel, blocks, grid, 32, 8, nullptr, output.data(), blocks, 5);
        std::vector<unsigned> wanted;
        for (unsigned i = 0; i < 32 * grid; ++i) wanted.push_back(100 * (i / 32 % blocks) + 5);
        expect_equal(output.download(), wanted, "word");
    }
}

// ---- TMA into several blocks: each loads a box of its own, for those in a set of its own

constexpr unsigned kMostBlocks = 8, kBox = 512;  // of the cluster; values, 8 rows of 64

struct Sets {
    std::uint16_t of[kMostBlocks];
};

__global__ void multicast_kernel(const __grid_constant__ ptx::TensorMap map, const __grid_constant__ Sets sets,
                                 unsigned blocks, std::uint16_t* output) {
    auto* const tile = ptx::dynamic_shared_memory<std::uint16_t>();  // a box from each block, and the barrier
    const std::uint32_t shared = ptx::shared_address(tile), mbarrier = shared + 2 * kBox * blocks;
    const std::uint32_t rank = ptx::cluster_rank();
    unsigned arriving = 0;
    for (unsigned box = 0; box < blocks; ++box) {
        const bool arrives = sets.of[box] >> rank & 1;
        arriving += arrives;
        // Where a copy goes nothing is written by ordinary means: nothing would put it in front of the copy.
        for (unsigned i = threadIdx.x; !arrives && i < kBox; i += blockDim.x) tile[kBox * box + i] = 0xeeee;
    }
    if (threadIdx.x == 0) {
        ptx::mbarrier_init(mbarrier, 1);
        ptx::fence_mbarrier_init();
        ptx::mbarrier_arrive_expect_tx(mbarrier, 2 * kBox * arriving);
    }
    __syncthreads();
    ptx::cluster_arrive_relaxed();
    ptx::cluster_wait();
    if (threadIdx.x == 0) {
        ptx::tma_load_3d_multicast(shared + 2 * kBox * rank, map, mbarrier, 0, static_cast<int>(rank), 0,
                                   sets.of[rank]);
    }
    ptx::mbarrier_wait(mbarrier, 0);
    for (unsigned i = threadIdx.x; i < kBox * blocks; i += blockDim.x) output[kBox * blocks * rank + i] = tile[i];
}

void multicast(unsigned blocks, const Sets& sets) {
    const std::vector<std::uint16_t> values = counting(kBox * blocks);
    DeviceArray<std::uint16_t> tensor(values), output(std::vector<std::uint16_t>(kBox * blocks * blocks));
    const auto map =
        ptx::encode_tiled<3>(tensor.data(), {64, blocks, 8}, {128, 128 * blocks}, {64, 1, 8}, Swizzle::bytes_128);
    ptx::launch_clusters("multicast", multicast_kernel, blocks, blocks, 64, 2 * kBox * blocks + 8, nullptr, map, sets,
                         blocks, output.data());
    std::vector<std::uint16_t> wanted;
    for (unsigned block = 0; block < blocks; ++block) {
        for (unsigned box = 0; box < blocks; ++box) {
            for (unsigned i = 0; i < kBox; ++i) {
                const unsigned row = i / 64, piece = i / 8 % 8;
                const std::uint16_t value = values[(row * blocks + box) * 64 + (piece ^ row) * 8 + i % 8];
                wanted.push_back(sets.of[box] >> block & 1 ? value : std::uint16_t{0xeeee});
            }
        }
    }
    expect_equal(output.download(), wanted, "word");
}

void test_multicast() {
    multicast(2, {{3, 2}});
    multicast(3, {{6, 7, 4}});
    multicast(4, {{9, 15, 1, 6}});
    multicast(8, {{255, 129, 16, 84, 250, 1, 128, 60}});
}

// ---- two blocks that share a tile, step after step: each fetches a half of it for both

enum class Fault {
    none,
    releases_own_alone,
    releases_the_peer_alone,
    no_wait_for_the_peer,
    released_too_early,
    half_of_the_bytes,
    to_itself_alone,
    to_a_third_block,
    no_cluster_barrier,
    no_fence_of_barriers,
    fenced_for_the_block_alone,
    no_wait_for_the_cluster,
    leaves_early,
    waits_for_its_last_stage_alone,
    waits_at_the_peers,
    arrives_twice,
    cluster_barrier_for_a_block,
};

constexpr int kStages = 2, kSteps = 5, kHalfBytes = 8 * 128, kStageBytes = 2 * kHalfBytes;

template <Fault kFault>
__global__ void __launch_bounds__(64) pair_kernel(const __grid_constant__ ptx::TensorMap map, unsigned* output) {
    auto* const memory = ptx::dynamic_shared_memory<unsigned char>();
    const std::uint32_t shared = ptx::shared_address(memory), full = shared + kStages * kStageBytes;
    const std::uint32_t empty = full + 8 * kStages, rank = ptx::cluster_rank();
    auto* const word = reinterpret_cast<unsigned*>(memory + kStages * kStageBytes + 16 * kStages);
    if (threadIdx.x == 0) {
        for (int stage = 0; stage < kStages; ++stage) {
            ptx::mbarrier_init(full + 8 * stage, 1);
            ptx::mbarrier_init(empty + 8 * stage, kFault == Fault::no_wait_for_the_peer ? 1 : 2);
        }
        if (kFault == Fault::fenced_for_the_block_alone) {
            ptx::fence_proxy_async();
        } else if (kFault != Fault::no_fence_of_barriers) {
            ptx::fence_mbarrier_init();
        }
        *word = rank;
    }
    if (kFault != Fault::cluster_barrier_for_a_block) __syncthreads();
    if (kFault != Fault::no_cluster_barrier) {
        ptx::cluster_arrive_relaxed();
        if (kFault == Fault::arrives_twice) ptx::cluster_arrive_relaxed();
        if (kFault != Fault::no_wait_for_the_cluster) ptx::cluster_wait();
    }
    if (threadIdx.x >= 32) {
        if (threadIdx.x > 32) return;
        for (int step = 0; step < kSteps + kStages; ++step) {
            const std::uint32_t stage = step % kStages, parity = step / kStages & 1;
            if (step >= kSteps && kFault == Fault::leaves_early) return;
            // Nothing says in which order arrivals at two barriers come.
            if (step == kSteps && kFault == Fault::waits_for_its_last_stage_alone) continue;
            ptx::mbarrier_wait(empty + 8 * stage, parity ^ 1);
            if (step >= kSteps) continue;  // nothing more to fetch, but the peer has to have done with this block
            const std::uint32_t bytes = kFault == Fault::half_of_the_bytes ? kHalfBytes : kStageBytes;
            const std::uint16_t blocks = kFault == Fault::to_itself_alone    ? 1 << rank
                                         : kFault == Fault::to_a_third_block ? 7
                                                                             : 3;
            ptx::mbarrier_arrive_expect_tx(full + 8 * stage, bytes);
            ptx::tma_load_3d_multicast(shared + stage * kStageBytes + rank * kHalfBytes, map, full + 8 * stage, 0, step,
                                       8 * static_cast<int>(rank), blocks);
        }
        return;
    }
    unsigned sum = *word;
    for (int step = 0; step < kSteps; ++step) {
        const int stage = step % kStages;
        const std::uint32_t waited = full + 8 * stage, released = empty + 8 * stage;
        ptx::mbarrier_wait(kFault == Fault::waits_at_the_peers ? ptx::map_shared(waited, rank ^ 1) : waited,
                           step / kStages & 1);
        const auto release = [&] {
            __syncwarp();
            const bool to_own = kFault != Fault::releases_the_peer_alone;
            const bool to_peer = kFault != Fault::releases_own_alone && kFault != Fault::no_wait_for_the_peer;
            if (threadIdx.x < 2 && (threadIdx.x == rank ? to_own : to_peer)) {
                ptx::mbarrier_arrive_cluster(ptx::map_shared(released, threadIdx.x));
            }
        };
        if (kFault == Fault::released_too_early) release();
        for (int row = 0; row < 16; ++row) {  // both halves, all columns
            const int piece = static_cast<int>(threadIdx.x) / 4 ^ row % 8;
            const auto* const at = memory + stage * kStageBytes + row * 128 + piece * 16 + threadIdx.x % 4 * 4;
            const unsigned two = *reinterpret_cast<const unsigned*>(at);
            sum += (two & 0xffff) * (row + 1) + (two >> 16) * (step + 3);
        }
        if (kFault != Fault::released_too_early) release();
    }
    output[32 * blockIdx.x + threadIdx.x] = sum;
}

template <Fault kFault>
void pair() {
    const std::vector<std::uint16_t> values = counting(16 * kSteps * 64);
    DeviceArray<std::uint16_t> tensor(values);  // [row][step][column]
    const auto map =
        ptx::encode_tiled<3>(tensor.data(), {64, kSteps, 16}, {128, kSteps * 128}, {64, 1, 8}, Swizzle::bytes_128);
    constexpr unsigned kBlocks = 6;
    DeviceArray<unsigned> output(std::vector<unsigned>(32 * kBlocks));
    ptx::launch_clusters("pair", pair_kernel<kFault>, 2, kBlocks, 64, kStages * (kStageBytes + 16) + 4, nullptr, map,
                         output.data());
    std::vector<unsigned> wanted(32 * kBlocks);
    for (unsigned i = 0; i < 32 * kBlocks; ++i) {
        wanted[i] = i / 32 % 2;
        for (unsigned step = 0; step < kSteps; ++step) {
            for (unsigned row = 0; row < 16; ++row) {
                const std::uint16_t* const two = &values[(row * kSteps + step) * 64 + i % 32 * 2];
                wanted[i] += two[0] * (row + 1) + two[1] * (step + 3);
            }
        }
    }
    expect_equal(output.download(), wanted, "word");
}

}  // namespace

int main(int argc, char** argv) {
    return harness::run_cases(argc, argv,
                              {{"cluster", test_ranks_and_arrivals},
                               {"tma_multicast", test_multicast},
                               {"pair", pair<Fault::none>},
                               {"pair.releases_own_alone", pair<Fault::releases_own_alone>},
                               {"pair.releases_the_peer_alone", pair<Fault::releases_the_peer_alone>},
                               {"pair.no_wait_for_the_peer", pair<Fault::no_wait_for_the_peer>},
                               {"pair.released_too_early", pair<Fault::released_too_early>},
                               {"pair.half_of_the_bytes", pair<Fault::half_of_the_bytes>},
                               {"pair.to_itself_alone", pair<Fault::to_itself_alone>},
                               {"pair.to_a_third_block", pair<Fault::to_a_third_block>},
                               {"pair.no_cluster_barrier", pair<Fault::no_cluster_barrier>},
                               {"pair.no_fence_of_barriers", pair<Fault::no_fence_of_barriers>},
                               {"pair.fenced_for_the_block_alone", pair<Fault::fenced_for_the_block_alone>},
                               {"pair.no_wait_for_the_cluster", pair<Fault::no_wait_for_the_cluster>},
                               {"pair.leaves_early", pair<Fault::leaves_early>},
                               {"pair.waits_for_its_last_stage_alone", pair<Fault::waits_for_its_last_stage_alone>},
                               {"pair.waits_at_the_peers", pair<Fault::waits_at_the_peers>},
                               {"pair.arrives_twice", pair<Fault::arrives_twice>},
                               {"pair.cluster_barrier_for_a_block", pair<Fault::cluster_barrier_for_a_block>}});
}
