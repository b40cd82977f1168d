// linear for up to 16 rows: y[m, k] = bias[k] + sum over c of x[m, c] w[k, c], bounded by reading w once.
//
// A block has 16 filters and eight warps that share out GEMM_K in runs of 32 values. Filters are the left operand of
// mma.sync and rows of x the right one: no product has a row to waste but where there are fewer than eight. A lane
// loads 16 bytes of two filters and of a row of x, straight from memory: mma takes any order of GEMM_K that both
// operands share, here the one in which each lane's eight values lie side by side. Its rung is
// examples/ladder/4_tensor_core.cu; it does without shared memory, since nobody reads a filter again.
#include "../elements.cuh"
#include "../ptx/launch.cuh"
#include "../ptx/mma.cuh"
#include "linear_relu_dropout.h"

namespace alexkern::linear_relu_dropout {
namespace {

constexpr int kWarps = 8, kThreads = 32 * kWarps, kFilters = 16, kRun = 32;

__device__ __forceinline__ void load(std::uint32_t (&words)[4], const void* from, bool there) {
    const uint4 bits = there ? *static_cast<const uint4*>(from) : uint4{0, 0, 0, 0};
    words[0] = bits.x;
    words[1] = bits.y;
    words[2] = bits.z;
    words[3] = bits.w;
}

template <typename T, int kEights>  // of rows
__global__ void __launch_bounds__(kThreads) few_rows_kernel(const __grid_constant__ FewRowsParams p) {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const int first_filter = static_cast<int>(blockIdx.x) * kFilters;
    const auto filter_of = [&](int half) {
        return static_cast<const T*>(p.weight) + (first_filter + g + 8 * half) * p.weight_stride;
    };
    float sum[kEights][4] = {};
#pragma unroll 4
    for (int run = warp * kRun; run < p.C; run += kWarps * kRun) {
        const int c = run + 8 * t;
        std::uint32_t filters[2][4];
#pragma unroll
        for (int half = 0; half < 2; ++half)
            load(filters[half], filter_of(half) + c, c < p.C && first_filter + g + 8 * half < p.K);
#pragma unroll
        for (int i = 0; i < kEights; ++i) {
            const int m = 8 * i + g;
            std::uint32_t row[4];
            load(row, static_cast<const T*>(p.input) + m * p.input_stride + c, c < p.C && m < p.M);
#pragma unroll
            for (int step = 0; step < 2; ++step) {
                const std::uint32_t a[4] = {filters[0][2 * step], filters[1][2 * step], filters[0][2 * step + 1],
                                            filters[1][2 * step + 1]};
                const std::uint32_t b[2] = {row[2 * step], row[2 * step + 1]};
                ptx::mma_m16n8k16<T>(sum[i], a, b);
            }
        }
    }
    auto* const sums = ptx::dynamic_shared_memory<float>();  // [kWarps][8 kEights][kFilters]
#pragma unroll
    for (int i = 0; i < kEights; ++i) {
#pragma unroll
        for (int r = 0; r < 4; ++r) {
            sums[(warp * 8 * kEights + 8 * i + 2 * t + r % 2) * kFilters + g + 8 * (r / 2)] = sum[i][r];
        }
    }
    __syncthreads();
    const int place = threadIdx.x, m = place / kFilters, filter = first_filter + place % kFilters;
    if (place >= 8 * kEights * kFilters || m >= p.M || filter >= p.K) return;
    float total = p.bias != nullptr ? ptx::to_float(static_cast<const T*>(p.bias)[filter]) : 0.0f;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) total += sums[w * 8 * kEights * kFilters + place];
    static_cast<T*>(p.output)[static_cast<std::int64_t>(m) * p.K + filter] = ptx::from_float<T>(total);
}

template <typename T, int kEights>
void run(const FewRowsParams& params, Stream stream) {
    ptx::launch("linear_relu_dropout_few_rows", few_rows_kernel<T, kEights>,
                dim3(static_cast<unsigned>((params.K + kFilters - 1) / kFilters)), kThreads,
                kWarps * 8 * kEights * kFilters * sizeof(float), stream, params);
}

}  // namespace

void few_rows(Element element, const FewRowsParams& params, Stream stream) {
    with_type(element, [&](auto type) {
        using T = decltype(type);
        if constexpr (sizeof(T) == 2) {
            params.M <= 8 ? run<T, 1>(params, stream) : run<T, 2>(params, stream);
        } else {
            throw std::invalid_argument("linear_relu_dropout_few_rows: 16-bit elements are wanted");
        }
    });
}

}  // namespace alexkern::linear_relu_dropout
