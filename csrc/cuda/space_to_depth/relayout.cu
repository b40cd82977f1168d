// The re-layout, its cast and its normalisation, in one pass that memory bounds.
//
// A block writes up to 64 pixels of a line of the destination, 64 x 4 x 4 x C values. Each of its four warps brings one
// row of the 4 x 256 pixels to shared memory, in the destination's type and with zeros outside of the image:
//
//   shared  (4, columns, 4, C)   runs of four neighbours in the source's own order, along channels and columns (NHWC)
//                                or along columns alone (NCHW): 4, 8 or 16 bytes a thread, three of them in flight
//   global  (columns, 4, 4, C)   16 bytes a thread, which are one or two pieces of four values of a row
#include "../elements.cuh"
#include "../ptx/launch.cuh"
#include "space_to_depth.h"

namespace alexkern::space_to_depth {
namespace {

constexpr int kWarp = 32, kThreads = kFactor * kWarp;
constexpr int kColumns = 64;  // of a block, at most
constexpr int kRun = 4;       // values that are read together, and that lie together in any case where they are written
constexpr int kAhead = 3;     // runs a thread has under way

// n / divisor for small n: below 2**10 by at most 16.
struct Quotient {
    int divisor, multiplier;

    explicit Quotient(int divisor) : divisor(divisor), multiplier(((1 << 20) + divisor - 1) / divisor) {}
    __device__ __forceinline__ int of(int n) const { return n * multiplier >> 20; }
};

struct Launch {
    Params p;
    int blocks, columns;        // of a line, and of a block
    int pitch;                  // of a row in shared memory, in values
    bool interleaved;           // a row of the source is one run of pixels with their channels
    bool vectorised;            // its runs of four are aligned
    Quotient channels, stores;  // C, and 16-byte stores of a pixel
};

template <typename From>
struct alignas(kRun * sizeof(From)) Run {
    From value[kRun];
};

// A row of the source, or a channel's part of it: `length` values, `step` apart.
template <typename From>
struct Line {
    const From* data;
    int length;
    std::int64_t step;

    __device__ __forceinline__ Run<From> read(int first, bool vectorised) const {
        if (vectorised && first + kRun <= length) return *reinterpret_cast<const Run<From>*>(data + first);
        Run<From> run = {};
#pragma unroll
        for (int k = 0; k < kRun; ++k) {
            if (first + k < length) run.value[k] = data[(first + k) * step];
        }
        return run;
    }
};

// Factors and summands for bytes, a warp's own: those of channel i % C at i, so that a run of four does not wrap.
constexpr int kTable = kMostChannels + kRun - 1;

template <typename From>
constexpr int kTableBytes = std::is_same<From, std::uint8_t>::value ? kTable * static_cast<int>(sizeof(float2)) : 0;

template <typename To, typename From>
__device__ __forceinline__ To converted(From value, const float2* table) {
    if constexpr (std::is_same<From, std::uint8_t>::value) {
        return ptx::from_float<To>(__fmaf_rn(static_cast<float>(value), table->x, table->y));
    } else if constexpr (std::is_same<From, To>::value) {
        return value;
    } else {
        return ptx::from_float<To>(ptx::to_float(value));
    }
}

// Infinities and NaN, and floats that TF32 rounds to an infinity.
__device__ __forceinline__ bool is_special(float value) {
    return (__float_as_uint(value) & 0x7fffffffu) >= 0x7f7ff000u;
}
__device__ __forceinline__ bool is_special(ptx::float16 value) { return (value.bits & 0x7c00) == 0x7c00; }
__device__ __forceinline__ bool is_special(ptx::bfloat16 value) { return (value.bits & 0x7f80) == 0x7f80; }

// A warp: the pixels of a row of the source from first_w on to `row`, zeros outside. Whether this lane saw a special.
template <typename From, typename To>
__device__ __forceinline__ bool stage(To* row, float2* table, const Launch& v, int n, int h, int first_w, int columns) {
    const Params& p = v.p;
    const int lane = threadIdx.x % kWarp;
    for (int i = lane; i < v.pitch * static_cast<int>(sizeof(To)) / 16; i += kWarp)
        reinterpret_cast<uint4*>(row)[i] = make_uint4(0, 0, 0, 0);
    if constexpr (kTableBytes<From> > 0) {
        if (lane < kTable) table[lane] = make_float2(p.scale[lane % p.C], p.shift[lane % p.C]);
    }
    __syncwarp();
    if (h < 0 || h >= p.H) return false;
    const From* const source = static_cast<const From*>(p.source) + n * p.stride_N + h * p.stride_H;
    const int lines = v.interleaved ? 1 : p.C, per_pixel = v.interleaved ? p.C : 1;
    const int begin = max(first_w, 0) * per_pixel, end = min(first_w + kFactor * columns, p.W) * per_pixel;
    const int first_run = begin / kRun, runs = max((end + kRun - 1) / kRun - first_run, 0);
    const int step = v.interleaved ? 1 : p.C;  // in `row`
    const auto line_of = [&](int run) {        // C is at most four
        return static_cast<int>(run >= runs) + static_cast<int>(run >= 2 * runs) + static_cast<int>(run >= 3 * runs);
    };
    bool special = false;
    for (int next = lane; next < lines * runs; next += kAhead * kWarp) {
        Run<From> ahead[kAhead];
#pragma unroll
        for (int u = 0; u < kAhead; ++u) {
            const int run = next + u * kWarp, line = line_of(run);
            if (run >= lines * runs) continue;
            const Line<From> from = {source + line * p.stride_C, p.W * per_pixel, v.interleaved ? 1 : p.stride_W};
            ahead[u] = from.read((first_run + run - line * runs) * kRun, v.vectorised);
        }
#pragma unroll
        for (int u = 0; u < kAhead; ++u) {
            const int run = next + u * kWarp, line = line_of(run);
            if (run >= lines * runs) continue;
            const int first = (first_run + run - line * runs) * kRun;
            To* const places = row + (first * step - first_w * p.C + line);
            const float2* const entries = table + (v.interleaved ? first % p.C : line);
            const auto put = [&](int k) {
                const To value = converted<To>(ahead[u].value[k], v.interleaved ? entries + k : entries);
                special |= is_special(value);
                places[k * step] = value;
            };
            if (first >= begin && first + kRun <= end) {
#pragma unroll
                for (int k = 0; k < kRun; ++k) put(k);
            } else {
#pragma unroll
                for (int k = 0; k < kRun; ++k) {
                    if (first + k >= begin && first + k < end) put(k);
                }
            }
        }
    }
    return special;
}

// 16 bytes of the destination: one piece of four values, or two that may be of different rows.
template <typename To, typename Piece>
__device__ __forceinline__ uint4 store_of(int first_piece, Piece&& piece) {
    if constexpr (sizeof(To) == 4) {
        return *reinterpret_cast<const uint4*>(piece(first_piece));
    } else {
        const uint2 first = *reinterpret_cast<const uint2*>(piece(first_piece));
        const uint2 second = *reinterpret_cast<const uint2*>(piece(first_piece + 1));
        return make_uint4(first.x, first.y, second.x, second.y);
    }
}

template <typename From, typename To>
__global__ void __launch_bounds__(kThreads) relayout_kernel(const __grid_constant__ Launch v) {
    constexpr int kPieces = 16 / (kRun * static_cast<int>(sizeof(To)));  // of a store
    const Params& p = v.p;
    unsigned char* const shared = ptx::dynamic_shared_memory<unsigned char>();
    To* const rows = reinterpret_cast<To*>(shared);  // (4, pitch)
    const std::int64_t line = blockIdx.x / static_cast<unsigned>(v.blocks);
    const int block = static_cast<int>(blockIdx.x % static_cast<unsigned>(v.blocks));
    const int n = static_cast<int>(line / p.height), i = static_cast<int>(line % p.height);
    const int first_j = block * v.columns, columns = min(v.columns, p.width - first_j);
    const int warp = threadIdx.x / kWarp;

    unsigned char* const tables = shared + kFactor * v.pitch * sizeof(To);
    float2* const table = reinterpret_cast<float2*>(tables + warp * kTableBytes<From>);
    const bool special = stage<From>(rows + warp * v.pitch, table, v, n, kFactor * i + warp - p.padding_H,
                                     kFactor * first_j - p.padding_W, columns);
    const bool marked = __any_sync(0xffffffffu, special);
    if (p.marks != nullptr && threadIdx.x % kWarp == 0) {
        p.marks[static_cast<std::int64_t>(blockIdx.x) * kMarks + warp] = marked ? 1 : 0;
    }
    __syncthreads();

    uint4* const destination = reinterpret_cast<uint4*>(p.destination) + (line * p.width + first_j) * v.stores.divisor;
    for (int store = threadIdx.x; store < columns * v.stores.divisor; store += kThreads) {
        const int pixel = v.stores.of(store);
        const auto piece = [&](int k) {
            const int row = v.channels.of(k);
            return rows + row * v.pitch + (pixel * p.C + k - row * p.C) * kRun;
        };
        destination[store] = store_of<To>((store - pixel * v.stores.divisor) * kPieces, piece);
    }
}

template <typename Function>
void with_source(Source source, Function&& function) {
    if (source == Source::uint8) return function(std::uint8_t{});
    with_type(static_cast<Element>(source), function);
}

int blocks_of(int width) { return (width + kColumns - 1) / kColumns; }

}  // namespace

int marks_per_line(int width) { return blocks_of(width) * kMarks; }

void relayout(Source from, Element to, const Params& params, Stream stream) {
    const std::int64_t lines = static_cast<std::int64_t>(params.N) * params.height;
    const int blocks = blocks_of(params.width);
    if (lines * blocks == 0) return;
    if (params.C < 1 || params.C > kMostChannels)
        throw std::invalid_argument("space_to_depth: 1 to 4 channels are wanted, got " + std::to_string(params.C));
    if (lines * blocks > 0x7fffffff) throw std::runtime_error("space_to_depth: too large for one grid");
    with_source(from, [&](auto source) {
        with_type(to, [&](auto destination) {
            using From = decltype(source);
            using To = decltype(destination);
            constexpr int kSize = sizeof(To);
            const auto aligned = [](std::int64_t stride) { return stride % kRun == 0; };
            const bool interleaved = params.stride_C == 1 && params.stride_W == params.C;
            const bool vectorised = reinterpret_cast<std::uintptr_t>(params.source) % (kRun * sizeof(From)) == 0 &&
                                    aligned(params.stride_N) && aligned(params.stride_H) &&
                                    (interleaved || (params.stride_W == 1 && aligned(params.stride_C)));
            const int columns = (params.width + blocks - 1) / blocks;
            // Whole stores, and one more: rows begin in different banks.
            const int pitch = ((columns * kFactor * params.C * kSize + 15) / 16 + 1) * 16 / kSize;
            const int bytes = kFactor * (pitch * kSize + kTableBytes<From>);
            const Launch launch = {params,
                                   blocks,
                                   columns,
                                   pitch,
                                   interleaved,
                                   vectorised,
                                   Quotient(params.C),
                                   Quotient(params.C * kSize)};
            ptx::launch("space_to_depth", relayout_kernel<From, To>, dim3(static_cast<unsigned>(lines * blocks)),
                        kThreads, bytes, stream, launch);
        });
    });
}

}  // namespace alexkern::space_to_depth
