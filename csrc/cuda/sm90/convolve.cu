// The convolution with bias and ReLU, and its data gradient, as an implicit product on sm_90a.
//
// GEMM_M is output pixels, GEMM_N filters, and a step of GEMM_K is a tap's 64 (or 48) channels: TMA's im2col mode
// gathers them, zeros where the tap lies outside. Blocks stay and take tile after tile: while the two warpgroups that
// multiply finish a tile, the warp that fetches is stages ahead in the next. The two blocks of a cluster take tiles
// that lie below one another and share the filters; where GEMM_M is an odd number of tiles the last one lies beyond
// it. Its rung is examples/ladder/6_hopper.cu; it adds larger tiles, registers shared out, tile after tile, clusters.
#include "../ptx/stmatrix.cuh"
#include "drop.cuh"
#include "launch.cuh"

namespace alexkern::sm90 {
namespace {

struct Kernel {
    ptx::TensorMap input, filters, output;  // output: for whole 16-bit tiles
    const void* bias;
    float* partials;
    Tiles tiles;
    std::int64_t gemm_m;  // N P Q
    int S, C, K, groups, taps;
    Divider by_P, by_Q, by_S, by_channel_steps;
    Axis vertical, horizontal;
    bool turned, relu;
    philox::Rule rule;  // of dropout; a seed of null drops nothing
    std::uint8_t* mask;
};

// Finished values go out through shared memory, 64 (or 32) filters at a time; each warpgroup has two such buffers, and
// the biases of its tile behind all of them.
template <int kBlockN>
struct Staging {
    static constexpr int kFilters = kBlockN % 64 == 0 ? 64 : 32, kRow = 2 * kFilters, kBuffer = 64 * kRow;
    static constexpr ptx::Swizzle kSwizzle = kFilters == 64 ? ptx::Swizzle::bytes_128 : ptx::Swizzle::bytes_64;
    static constexpr int kBiases = 4 * kBuffer, kBytes = kBiases + 2 * kBlockN * static_cast<int>(sizeof(float));

    // Of a multiple of eight filters: j eights further on, from a multiple of as many, it is this ^ 16 j.
    static __device__ __forceinline__ int at(int pixel, int filter) {
        const int byte = pixel * kRow + 2 * filter;
        return byte ^ (byte >> 7 & (kRow / 16 - 1)) << 4;
    }
};

template <typename T, int kBlockN, int kBlockK, int kCluster>
__global__ void __launch_bounds__(kThreads, 1) convolve_kernel(const __grid_constant__ Kernel p) {
#ifdef ALEXKERN_HAS_WGMMA
    using Out = Staging<kBlockN>;
    using Stages = Ring<kBlockN, Out::kBytes, kCluster>;
    unsigned char* const memory = ptx::dynamic_shared_memory<unsigned char>();
    Stages ring{ptx::shared_address(memory)};
    const int warp = warp_index(), warpgroup = warp / 4;
    ring.set_up(warp, p.input, p.filters, p.output);
    const unsigned rank = kCluster > 1 ? ptx::cluster_rank() : 0;

    if (warpgroup == 2) {
        ptx::give_registers_back<kProducerRegisters>();
        if (warp != kFetchingWarp || !ptx::elect_one()) return;
        for (unsigned tile = blockIdx.x / kCluster; tile < p.tiles.count; tile += gridDim.x / kCluster) {
            const Tiles::At at = p.tiles.at(tile);
            const auto place = Digits::of((at.m * kCluster + rank) * kBlockM, p.by_Q, p.by_P);  // q, p, n
            const int h = place.middle * p.vertical.stride - p.vertical.padding;
            const int w = place.inner * p.horizontal.stride - p.horizontal.padding;
            const int group = static_cast<int>(at.batch), filter = group * p.K + static_cast<int>(at.n) * kBlockN;
            // Steps go on from channel to channel and from tap to tap.
            const auto first = Digits::of(static_cast<std::uint32_t>(at.first), p.by_channel_steps, p.by_S);
            int c = first.inner * kBlockK, s = first.middle, r = first.outer, tap = r * p.S + s;
            ring.produce(at.steps, [&] {
                ptx::mbarrier_arrive_expect_tx(ring.full(), Stages::kStage);
                ptx::tma_load_im2col(ring.tile_a(), p.input, ring.full(), group * p.C + c, w, h, place.outer,
                                     static_cast<std::uint16_t>(s * p.horizontal.dilation),
                                     static_cast<std::uint16_t>(r * p.vertical.dilation));
                ring.fetch_b(p.filters, c, p.turned ? p.taps - 1 - tap : tap, filter, rank);
                c += kBlockK;
                if (c < p.C) return;
                c = 0;
                ++tap;
                if (++s == p.S) {
                    s = 0;
                    ++r;
                }
            });
        }
        ring.drain();
        return;
    }

    ptx::take_registers<kConsumerRegisters>();
    const int thread = threadIdx.x % kWarpgroup, lane = thread % 32;
    const int row = thread / 32 * 16 + lane / 4, pair = lane % 4 * 2;  // of register 0; 2 and 3 lie 8 rows below
    const std::uint32_t staging = ring.shared + Stages::kStaging + warpgroup * 2 * Out::kBuffer;
    unsigned char* const staged = memory + Stages::kStaging + warpgroup * 2 * Out::kBuffer;
    float* const biases = reinterpret_cast<float*>(memory + Stages::kStaging + Out::kBiases) + warpgroup * kBlockN;
    // The row that this lane stores; buffers are aligned to a swizzle's rows, so what is said of Out::at holds for it.
    const std::uint32_t own_row = staging + Out::at(thread / 32 * 16 + lane % 16, lane / 16 * 8);
    int buffer = 0;
    float sum[kBlockN / 2] = {};
    for (unsigned tile = blockIdx.x / kCluster; tile < p.tiles.count; tile += gridDim.x / kCluster) {
        const Tiles::At at = p.tiles.at(tile);
        const int first_m = static_cast<int>(at.m * kCluster + rank) * kBlockM + 64 * warpgroup;
        const int first_n = static_cast<int>(at.n) * kBlockN, group = static_cast<int>(at.batch);
        // Biases are on their way while the tile is multiplied, and change hands behind it.
        const T* const bias = static_cast<const T*>(p.bias) + group * p.K + first_n;
        T own[(kBlockN + kWarpgroup - 1) / kWarpgroup] = {};  // of 0 bits, which are 0
#pragma unroll
        for (int n = thread; n < kBlockN; n += kWarpgroup) {
            if (p.bias != nullptr && first_n + n < p.K) own[n / kWarpgroup] = bias[n];
        }
        ring.template consume<T, kBlockK / 16, false>(sum, at.steps, warpgroup);
        if (p.partials != nullptr) {
            const std::int64_t pitch = static_cast<std::int64_t>(p.groups) * p.K, m = first_m + row;
            const int n = first_n + pair;
            float* const upper = p.partials + (at.split * p.gemm_m + m) * pitch + group * p.K + n;
            store_sums<0, kBlockN>(sum, m < p.gemm_m ? upper : nullptr, m + 8 < p.gemm_m ? upper + 8 * pitch : nullptr,
                                   p.K - n);
            continue;
        }
#pragma unroll
        for (int n = thread; n < kBlockN; n += kWarpgroup) biases[n] = ptx::to_float(own[n / kWarpgroup]);
#pragma unroll
        for (int part = 0; part < kBlockN / Out::kFilters; ++part) {
            const int n0 = first_n + part * Out::kFilters;
            if (thread == 0) ptx::tma_wait_group_read<1>();  // the last but one: this buffer is free
            ptx::bar_sync(1 + warpgroup, kWarpgroup);
            float2 both[Out::kFilters / 8];  // all before the first store, which the compiler moves no load across
#pragma unroll
            for (int j = 0; j < Out::kFilters / 8; ++j) {
                both[j] = *reinterpret_cast<const float2*>(biases + part * Out::kFilters + 8 * j + pair);
            }
#pragma unroll
            for (int j = 0; j < Out::kFilters / 8; j += 2) {
                std::uint32_t pairs[4];  // of eight filters upper and lower rows, and so of the next eight
#pragma unroll
                for (int i = 0; i < 4; ++i) {
                    const int number = 4 * (part * Out::kFilters / 8 + j) + 2 * i;
                    pairs[i] = ptx::pack<T>(finished(sum[number] + both[j + i / 2].x, p.relu),
                                            finished(sum[number + 1] + both[j + i / 2].y, p.relu));
                }
                ptx::stmatrix_x4((own_row + buffer * Out::kBuffer) ^ 16 * j, pairs);
            }
            if (p.rule.seed != nullptr) {
                ptx::bar_sync(1 + warpgroup, kWarpgroup);
                drop<T, Out>(staged + buffer * Out::kBuffer, p.gemm_m - first_m, p.K - n0, p.mask, p.rule,
                             std::int64_t{first_m} * p.K + n0, p.K);
            }
            ptx::fence_proxy_async();
            ptx::bar_sync(1 + warpgroup, kWarpgroup);
            if (thread == 0) {
                if (n0 < p.K && first_m < p.gemm_m) {
                    ptx::tma_store_3d(p.output, staging + buffer * Out::kBuffer, n0, group, first_m);
                }
                ptx::tma_commit_group();
            }
            buffer ^= 1;
        }
    }
    if (thread == 0) ptx::tma_wait_group_read<0>();
#endif
}

template <typename T, int kBlockN, int kBlockK, int kCluster>
void run(const ConvolveParams& v, Stream stream) {
    using Out = Staging<kBlockN>;
    using Stages = Ring<kBlockN, Out::kBytes, kCluster>;
    const auto u64 = [](std::int64_t value) { return static_cast<std::uint64_t>(value); };
    Kernel p = {};
    p.gemm_m = std::int64_t{v.N} * v.P * v.Q;
    p.taps = v.R * v.S;
    const int channel_steps = divide_up(v.C, kBlockK);
    p.input = input_map(v, kBlockM);
    p.filters = ptx::encode_tiled<3>(v.filters, {u64(v.C), u64(p.taps), u64(v.groups) * v.K},
                                     {u64(v.C) * 2, u64(p.taps) * v.C * 2}, {kRowValues, 1, Stages::kPartB},
                                     ptx::Swizzle::bytes_128);
    if (v.partials == nullptr) {
        p.output = ptx::encode_tiled<3>(v.output, {u64(v.K), u64(v.groups), u64(p.gemm_m)},
                                        {u64(v.K) * 2, u64(v.groups) * v.K * 2}, {Out::kFilters, 1, 64}, Out::kSwizzle);
    }
    p.bias = v.partials == nullptr ? v.bias : nullptr;
    p.rule = {v.seed, v.limit, v.scale};
    p.mask = v.mask;
    p.partials = v.partials;
    p.tiles = tiles_of(divide_up(v.K, kBlockN), divide_up<std::int64_t>(p.gemm_m, kBlockM * kCluster), v.choice.splits,
                       v.groups, std::int64_t{p.taps} * channel_steps);
    p.by_P = Divider(v.P);
    p.by_Q = Divider(v.Q);
    p.by_S = Divider(v.S);
    p.by_channel_steps = Divider(channel_steps);
    p.S = v.S;
    p.C = v.C;
    p.K = v.K;
    p.groups = v.groups;
    p.vertical = v.vertical;
    p.horizontal = v.horizontal;
    p.turned = v.turned;
    p.relu = v.relu;
    const unsigned clusters =
        std::min(p.tiles.count, std::max(1u, static_cast<unsigned>(v.multiprocessors) / kCluster));
    ptx::launch_clusters("conv2d_relu on sm_90a", convolve_kernel<T, kBlockN, kBlockK, kCluster>, kCluster,
                         clusters * kCluster, kThreads, Stages::kBytes, stream, p);
}

template <typename T, int kBlockN, int kBlockK>
void run_clusters(const ConvolveParams& v, Stream stream) {
    if (v.choice.cluster == 1) return run<T, kBlockN, kBlockK, 1>(v, stream);
    if (v.choice.cluster == 2) return run<T, kBlockN, kBlockK, 2>(v, stream);
    throw std::runtime_error("conv2d_relu on sm_90a: no clusters of " + std::to_string(v.choice.cluster) + " blocks");
}

template <typename T, int kBlockK>
void run_tile(const ConvolveParams& v, Stream stream) {
    switch (v.choice.block_n) {
        case 64:
            return run_clusters<T, 64, kBlockK>(v, stream);
        case 96:
            return run_clusters<T, 96, kBlockK>(v, stream);
        case 128:
            return run_clusters<T, 128, kBlockK>(v, stream);
    }
    if constexpr (kBlockK == kLargeBlockK) {
        if (v.choice.block_n == 192) return run_clusters<T, 192, kBlockK>(v, stream);
        if (v.choice.block_n == 256) return run_clusters<T, 256, kBlockK>(v, stream);
    }
    throw std::runtime_error("conv2d_relu on sm_90a: no tile of " + std::to_string(v.choice.block_n) + " filters");
}

}  // namespace

void convolve(Element element, const ConvolveParams& params, Stream stream) {
    with_half_type(element, [&](auto type) {
        if (block_k_of(params.C) == kLargeBlockK) {
            run_tile<decltype(type), kLargeBlockK>(params, stream);
        } else {
            run_tile<decltype(type), kSmallBlockK>(params, stream);
        }
    });
}

}  // namespace alexkern::sm90
