// The weight's gradient as a product on sm_90a: GEMM_M is filters, GEMM_N taps and channels, and GEMM_K output pixels,
// 64 a step. Both operands come with GEMM_K across their rows, as they lie in memory. GEMM_N goes by slices of 64
// channels of a tap, each gathered by a copy of its own. Every split leaves its sums in fp32. Its rung is
// examples/ladder/6_hopper.cu; it adds operands with GEMM_K across their rows, and splits.
#include "launch.cuh"

namespace alexkern::sm90 {
namespace {

struct Kernel {
    ptx::TensorMap input, grad;
    float* partials;
    Tiles tiles;
    int P, Q, C, filters, groups, taps;
    Digits step;  // kPixels further on: q, p, n
    Divider by_P, by_Q, by_S, by_channel_slices;
    Axis vertical, horizontal;
};

constexpr int kSlice = 64;

// Calls visit(slice of the tile, store) for each, from the kPart-th on; store(upper, lower, count) stores its sums.
template <int kPart, int kBlockN, typename Visit>
__device__ __forceinline__ void store_slices(const float (&sum)[kBlockN / 2], Visit&& visit) {
    visit(kPart,
          [&](float* upper, float* lower, int count) { store_sums<kPart * kSlice, kSlice>(sum, upper, lower, count); });
    if constexpr ((kPart + 1) * kSlice < kBlockN) store_slices<kPart + 1, kBlockN>(sum, visit);
}

template <typename T, int kBlockN>
__global__ void __launch_bounds__(kThreads, 1) weight_gradient_kernel(const __grid_constant__ Kernel p) {
#ifdef ALEXKERN_HAS_WGMMA
    constexpr int kSlices = kBlockN / kSlice, kSliceBytes = kPixels * kRowBytes;
    Ring<kBlockN, 0> ring{ptx::shared_address(ptx::dynamic_shared_memory<unsigned char>())};
    const int warp = warp_index(), warpgroup = warp / 4;
    ring.set_up(warp, p.input, p.grad);

    if (warpgroup == 2) {
        ptx::give_registers_back<kProducerRegisters>();
        if (warp != kFetchingWarp || !ptx::elect_one()) return;
        const int slices = p.taps * static_cast<int>(p.by_channel_slices.divisor);
        for (unsigned tile = blockIdx.x; tile < p.tiles.count; tile += gridDim.x) {
            const Tiles::At at = p.tiles.at(tile);
            const int filter = static_cast<int>(at.m) * kBlockM, group = static_cast<int>(at.batch);
            const int first_slice = static_cast<int>(at.n) * kSlices;
            const int here = min(slices - first_slice, kSlices);
            int c[kSlices];
            std::uint16_t offset_w[kSlices], offset_h[kSlices];
#pragma unroll
            for (int i = 0; i < kSlices; ++i) {
                const auto slice = static_cast<std::uint32_t>(first_slice + i);
                const auto of = Digits::of(slice, p.by_channel_slices, p.by_S);  // channels, s, r
                c[i] = group * p.C + of.inner * kSlice;
                offset_w[i] = static_cast<std::uint16_t>(of.middle * p.horizontal.dilation);
                offset_h[i] = static_cast<std::uint16_t>(of.outer * p.vertical.dilation);
            }
            int pixel = at.first * kPixels;
            Digits place = Digits::of(static_cast<std::uint32_t>(pixel), p.by_Q, p.by_P);  // q, p, n
            ring.produce(at.steps, [&] {
                const int h = place.middle * p.vertical.stride - p.vertical.padding;
                const int w = place.inner * p.horizontal.stride - p.horizontal.padding;
                ptx::mbarrier_arrive_expect_tx(ring.full(), (kBlockM / kSlice + here) * kSliceBytes);
#pragma unroll
                for (int i = 0; i < kBlockM / kSlice; ++i) {
                    ptx::tma_load_3d(ring.tile_a() + i * kSliceBytes, p.grad, ring.full(), filter + i * kSlice, group,
                                     pixel);
                }
                // Slices beyond the last are whatever lies there, and are not stored.
#pragma unroll
                for (int i = 0; i < kSlices; ++i) {
                    if (i >= here) continue;
                    ptx::tma_load_im2col(ring.tile_b() + i * kSliceBytes, p.input, ring.full(), c[i], w, h, place.outer,
                                         offset_w[i], offset_h[i]);
                }
                pixel += kPixels;
                place.advance(p.step, p.Q, p.P);
            });
        }
        return;
    }

    ptx::take_registers<kConsumerRegisters>();
    const int thread = threadIdx.x % kWarpgroup, lane = thread % 32;
    const int row = thread / 32 * 16 + lane / 4, pair = lane % 4 * 2;
    float sum[kBlockN / 2] = {};
    for (unsigned tile = blockIdx.x; tile < p.tiles.count; tile += gridDim.x) {
        const Tiles::At at = p.tiles.at(tile);
        ring.template consume<T, kPixels / 16, true>(sum, at.steps, warpgroup);
        const int filter = static_cast<int>(at.m) * kBlockM + 64 * warpgroup + row;
        const std::int64_t layer = std::int64_t{at.split} * p.groups + at.batch;
        const std::int64_t pitch = static_cast<std::int64_t>(p.taps) * p.C;
        float* const sums = p.partials + (layer * p.filters + filter) * pitch;
        store_slices<0, kBlockN>(sum, [&](int part, auto store) {
            std::uint32_t slice = at.n * kSlices + part;
            const int c = static_cast<int>(split_off(slice, p.by_channel_slices)) * kSlice + pair;
            const auto tap = static_cast<int>(slice);
            if (tap >= p.taps) return;
            float* const upper = sums + tap * p.C + c;
            store(filter < p.filters ? upper : nullptr, filter + 8 < p.filters ? upper + 8 * pitch : nullptr, p.C - c);
        });
    }
#endif
}

template <typename T, int kBlockN>
void run(const WeightGradientParams& v, Stream stream) {
    const auto u64 = [](std::int64_t value) { return static_cast<std::uint64_t>(value); };
    Kernel p = {};
    const std::int64_t pixels = std::int64_t{v.N} * v.P * v.Q;
    const int channel_slices = divide_up(v.C, kSlice);
    p.taps = v.R * v.S;
    p.input = input_map(v, kPixels);
    p.grad =
        ptx::encode_tiled<3>(v.grad, {u64(v.K), u64(v.groups), u64(pixels)}, {u64(v.K) * 2, u64(v.groups) * v.K * 2},
                             {kSlice, 1, kPixels}, ptx::Swizzle::bytes_128);
    p.partials = v.partials;
    p.tiles = tiles_of(divide_up(p.taps * channel_slices * kSlice, kBlockN), divide_up(v.filters, kBlockM),
                       v.choice.splits, v.groups, divide_up<std::int64_t>(pixels, kPixels));
    p.P = v.P;
    p.Q = v.Q;
    p.step = Digits::of(kPixels, v.Q, v.P);
    p.by_P = Divider(v.P);
    p.by_Q = Divider(v.Q);
    p.by_S = Divider(v.S);
    p.by_channel_slices = Divider(channel_slices);
    p.C = v.C;
    p.filters = v.filters;
    p.groups = v.groups;
    p.vertical = v.vertical;
    p.horizontal = v.horizontal;
    ptx::launch("conv2d_relu's weight gradient on sm_90a", weight_gradient_kernel<T, kBlockN>,
                std::min(p.tiles.count, static_cast<unsigned>(v.multiprocessors)), kThreads, Ring<kBlockN, 0>::kBytes,
                stream, p);
}

}  // namespace

void weight_gradient(Element element, const WeightGradientParams& params, Stream stream) {
    with_half_type(element, [&](auto type) {
        using T = decltype(type);
        switch (params.choice.block_n) {
            case 64:
                return run<T, 64>(params, stream);
            case 128:
                return run<T, 128>(params, stream);
            case 256:
                return run<T, 256>(params, stream);
        }
        throw std::runtime_error("conv2d_relu's weight gradient on sm_90a: no tile of " +
                                 std::to_string(params.choice.block_n) + " taps and channels");
    });
}

}  // namespace alexkern::sm90
