// A convolution as Hopper wants it, small: a warp that fetches by TMA, a warpgroup that multiplies by wgmma, a ring of
// stages between them, and a store by TMA. Next to it the same with one fault each, every one of which must be found.
#include "../../cuda/ptx/barrier.cuh"
#include "../../cuda/ptx/mbarrier.cuh"
#include "../../cuda/ptx/tma.cuh"
#include "../../cuda/ptx/wgmma.cuh"
#include "harness.h"

namespace {

using harness::DeviceArray;
using ptx::bfloat16;
using ptx::Swizzle;

#if defined(__CUDA_ARCH__) && !defined(__CUDA_ARCH_FEAT_SM90_ALL)
#error "this kernel is for sm_90a"
#endif

enum class Fault {
    none,
    no_wait_for_full,
    wrong_parity,
    no_wait_for_empty,
    no_release,
    released_too_early,
    too_few_bytes,
    too_many_bytes,
    no_fence_of_barriers,
    no_proxy_fence,
    one_thread_fences,
    a_warp_does_not_fence,
    no_barrier_before_store,
    no_wait_for_store,
    no_wgmma_fence,
    no_wgmma_wait,
    wrong_swizzle,
    wrong_descriptor,
    three_warps_multiply,
    corner_off_by_one,
};

constexpr int kImages = 2, kSize = 6, kPixels = kSize * kSize;  // 3 x 3, padding 1: outputs are as large as inputs
constexpr int kBlock = 64, kTaps = 9, kStages = 3;              // 64 pixels, 64 filters, 64 channels a step
constexpr int kTileBytes = kBlock * 128, kStageBytes = 2 * kTileBytes, kRingBytes = kStages * kStageBytes;
constexpr int kSharedBytes = kRingBytes + kTileBytes + 16 * kStages;
constexpr int kTiles = (kImages * kPixels + kBlock - 1) / kBlock;

template <Fault kFault>
__global__ void __launch_bounds__(160)
    pipeline_kernel(const __grid_constant__ ptx::TensorMap input, const __grid_constant__ ptx::TensorMap filters,
                    const __grid_constant__ ptx::TensorMap output) {
    auto* const memory = ptx::dynamic_shared_memory<unsigned char>();
    const std::uint32_t shared = ptx::shared_address(memory), full = shared + kRingBytes + kTileBytes;
    const std::uint32_t empty = full + 8 * kStages;
    if (threadIdx.x == 0) {
        for (int stage = 0; stage < kStages; ++stage) {
            ptx::mbarrier_init(full + 8 * stage, 1);
            ptx::mbarrier_init(empty + 8 * stage, 4);
        }
        if (kFault != Fault::no_fence_of_barriers) ptx::fence_mbarrier_init();
    }
    __syncthreads();
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    int stage = 0;
    unsigned parity = 0;
    const auto advance = [&] {
        stage = stage + 1 == kStages ? 0 : stage + 1;
        parity ^= stage == 0;
    };
    if (warp == 4) {
        if (lane != 0) return;
        for (int tile = 0; tile < kTiles; ++tile) {
            const int m = tile * kBlock, n = m / kPixels, h = m / kSize % kSize - 1, w = m % kSize - 1;
            for (int tap = 0; tap < kTaps; ++tap) {
                if (kFault != Fault::no_wait_for_empty) ptx::mbarrier_wait(empty + 8 * stage, parity ^ 1);
                const int bytes = kStageBytes - (kFault == Fault::too_few_bytes ? 16 : 0) +
                                  (kFault == Fault::too_many_bytes ? 16 : 0);
                const std::uint32_t tiles = shared + stage * kStageBytes;
                ptx::mbarrier_arrive_expect_tx(full + 8 * stage, bytes);
                ptx::tma_load_im2col(tiles, input, full + 8 * stage, 0, w, h, n, tap % 3, tap / 3);
                ptx::tma_load_3d(tiles + kTileBytes, filters, full + 8 * stage, 0, tap, 0);
                advance();
            }
        }
        return;
    }
    float sum[kBlock / 2] = {};
    unsigned char* const staging = memory + kRingBytes;
    const int g = lane / 4, t = lane % 4;
    for (int tile = 0; tile < kTiles; ++tile) {
        int last = -1;
        for (int tap = 0; tap < kTaps; ++tap) {
            if (kFault != Fault::no_wait_for_full)
                ptx::mbarrier_wait(full + 8 * stage, parity ^ (kFault == Fault::wrong_parity));
            const std::uint32_t tiles = shared + stage * kStageBytes;
            if (kFault != Fault::no_wgmma_fence) ptx::wgmma_fence();
            for (int k = 0; k < 4; ++k) {
                if (kFault == Fault::three_warps_multiply && warp == 3 && k == 3) continue;
                constexpr int kGroup = kFault == Fault::wrong_descriptor ? 2048 : 1024;
                const auto a = ptx::matrix_descriptor<Swizzle::bytes_128>(tiles + 32 * k, kGroup);
                const auto b = ptx::matrix_descriptor<Swizzle::bytes_128>(tiles + kTileBytes + 32 * k, 1024);
                ptx::wgmma<bfloat16, kBlock, false, false>(sum, a, b, tap > 0 || k > 0);
            }
            ptx::wgmma_commit_group();
            // The products of the step before are done: their stage may be filled anew.
            ptx::wgmma_wait_group<1>(sum);
            const int done = kFault == Fault::released_too_early ? stage : last;
            if (done >= 0 && lane == 0 && kFault != Fault::no_release) ptx::mbarrier_arrive(empty + 8 * done);
            last = stage;
            advance();
        }
        if (kFault != Fault::no_wgmma_wait) ptx::wgmma_wait_group<0>(sum);
        if (lane == 0 && kFault != Fault::no_release && kFault != Fault::released_too_early) {
            ptx::mbarrier_arrive(empty + 8 * last);
        }
        // The store of the tile before has read what is overwritten now.
        if (threadIdx.x == 0 && kFault != Fault::no_wait_for_store) ptx::tma_wait_group_read<0>();
        ptx::bar_sync(1, 128);
#pragma unroll
        for (int i = 0; i < kBlock / 2; i += 2) {
            const int row = 16 * warp + g + 8 * (i / 2 % 2), piece = i / 4;
            *reinterpret_cast<std::uint32_t*>(staging + 128 * row + 16 * (piece ^ (row & 7)) + 4 * t) =
                ptx::pack<bfloat16>(sum[i], sum[i + 1]);
        }
        const bool fences = kFault == Fault::one_thread_fences       ? threadIdx.x == 0
                            : kFault == Fault::a_warp_does_not_fence ? warp != 3
                                                                     : kFault != Fault::no_proxy_fence;
        if (fences) ptx::fence_proxy_async();
        if (kFault != Fault::no_barrier_before_store) ptx::bar_sync(1, 128);
        if (threadIdx.x == 0) {
            ptx::tma_store_3d(output, shared + kRingBytes, 0, 0, tile * kBlock);
            ptx::tma_commit_group();
        }
    }
    if (threadIdx.x == 0) ptx::tma_wait_group_read<0>();
}

// Small whole numbers: every sum is exact, in any order.
std::vector<bfloat16> whole_numbers(std::size_t count, unsigned seed, std::vector<float>& values) {
    values = harness::random_floats(count, seed);
    std::vector<bfloat16> result(count);
    for (std::size_t i = 0; i < count; ++i) {
        values[i] = static_cast<float>(static_cast<int>(values[i] * 3));
        std::uint32_t bits;
        std::memcpy(&bits, &values[i], 4);
        result[i].bits = static_cast<std::uint16_t>(bits >> 16);
    }
    return result;
}

template <Fault kFault>
void pipeline() {
    constexpr int kInputs = kImages * kPixels * kBlock;
    std::vector<float> x, w;
    const DeviceArray<bfloat16> input(whole_numbers(kInputs, 1, x));                    // (N, H, W, C)
    const DeviceArray<bfloat16> filters(whole_numbers(kBlock * kTaps * kBlock, 2, w));  // (K, R S, C)
    const DeviceArray<bfloat16> output(std::vector<bfloat16>(kInputs, {0x7fff}));
    const int upper = kFault == Fault::corner_off_by_one ? 0 : -1;
    const auto input_map =
        ptx::encode_im2col(input.data(), {64, kSize, kSize, kImages}, {128, kSize * 128, kPixels * 128}, {-1, -1},
                           {upper, upper}, 64, kBlock, {1, 1}, Swizzle::bytes_128);
    const std::uint32_t inner = kFault == Fault::wrong_swizzle ? 32 : 64;
    const Swizzle swizzle = kFault == Fault::wrong_swizzle ? Swizzle::bytes_64 : Swizzle::bytes_128;
    const auto filters_map = ptx::encode_tiled<3>(filters.data(), {64, kTaps, kBlock}, {128, kTaps * 128},
                                                  {inner, 1, kBlock * 64 / inner}, swizzle);
    const auto output_map = ptx::encode_tiled<3>(output.data(), {64, 1, kImages * kPixels}, {128, 128}, {64, 1, kBlock},
                                                 Swizzle::bytes_128);
    ptx::launch("pipeline", pipeline_kernel<kFault>, 1, 160, kSharedBytes, nullptr, input_map, filters_map, output_map);
    const std::vector<bfloat16> got = output.download();
    std::vector<float> values(kInputs);
    std::vector<double> wanted(kInputs);
    for (int i = 0; i < kInputs; ++i) {
        const std::uint32_t bits = std::uint32_t{got[i].bits} << 16;
        std::memcpy(&values[i], &bits, 4);
        const int k = i % kBlock, q = i / kBlock % kSize, p = i / kBlock / kSize % kSize, n = i / kBlock / kPixels;
        for (int tap = 0; tap < kTaps; ++tap) {
            const int h = p + tap / 3 - 1, v = q + tap % 3 - 1;
            if (h < 0 || h >= kSize || v < 0 || v >= kSize) continue;
            for (int c = 0; c < kBlock; ++c) {
                wanted[i] += x[((n * kSize + h) * kSize + v) * kBlock + c] * w[(k * kTaps + tap) * kBlock + c];
            }
        }
    }
    harness::expect_close(values, wanted, 1.0, "output");  // sums up to some hundreds, rounded to bf16
}

}  // namespace

int main(int argc, char** argv) {
    return harness::run_cases(argc, argv,
                              {{"pipeline", pipeline<Fault::none>},
                               {"pipeline.no_wait_for_full", pipeline<Fault::no_wait_for_full>},
                               {"pipeline.wrong_parity", pipeline<Fault::wrong_parity>},
                               {"pipeline.no_wait_for_empty", pipeline<Fault::no_wait_for_empty>},
                               {"pipeline.no_release", pipeline<Fault::no_release>},
                               {"pipeline.released_too_early", pipeline<Fault::released_too_early>},
                               {"pipeline.too_few_bytes", pipeline<Fault::too_few_bytes>},
                               {"pipeline.too_many_bytes", pipeline<Fault::too_many_bytes>},
                               {"pipeline.no_fence_of_barriers", pipeline<Fault::no_fence_of_barriers>},
                               {"pipeline.no_proxy_fence", pipeline<Fault::no_proxy_fence>},
                               {"pipeline.one_thread_fences", pipeline<Fault::one_thread_fences>},
                               {"pipeline.a_warp_does_not_fence", pipeline<Fault::a_warp_does_not_fence>},
                               {"pipeline.no_barrier_before_store", pipeline<Fault::no_barrier_before_store>},
                               {"pipeline.no_wait_for_store", pipeline<Fault::no_wait_for_store>},
                               {"pipeline.no_wgmma_fence", pipeline<Fault::no_wgmma_fence>},
                               {"pipeline.no_wgmma_wait", pipeline<Fault::no_wgmma_wait>},
                               {"pipeline.wrong_swizzle", pipeline<Fault::wrong_swizzle>},
                               {"pipeline.wrong_descriptor", pipeline<Fault::wrong_descriptor>},
                               {"pipeline.three_warps_multiply", pipeline<Fault::three_warps_multiply>},
                               {"pipeline.corner_off_by_one", pipeline<Fault::corner_off_by_one>}});
}
