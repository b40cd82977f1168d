// Winograd's F(2x2, RxR). A tile is 2x2 outputs of one image; it reads P x P pixels, P = R + 1, which it shares with
// its neighbours. A thread takes a block of tiles at a time:
//
//   points    [P][P][C / 16][block][16]   B^T d B of every tile and channel: half of the L2 cache
//   products  [P][P][block][32]           points x filters
//   outputs   [2][2][32] of every tile    A^T products A + bias, ReLU
//
// the last two for one panel of 32 output channels after the other. The products are P^2 matrix products of [block, C]
// by [C, 32], as many tiles at a time as registers hold sums for two vectors of channels. Filters, [K /
// 32][P][P][C][32], are read in order, once a block, and fetched into the L2 cache one [C, 32] ahead of their use.
//
// Most of the rounding error comes of adding up C products: a sum goes on for DEPTH of them, and is then added to those
// before. docs/cpu.md has the errors in figures.
#include "winograd.h"

#include <unistd.h>
#if defined(_OPENMP)
#include <omp.h>
#endif

#include "../parallel.h"
#include "points.h"

namespace alexkern::winograd {

namespace {

using namespace ALEXKERN_ISA;

constexpr int ROWS = LANES == 16 ? 14 : 6;  // tiles in registers
constexpr int VECTORS = 2;
constexpr int WIDE = VECTORS * LANES;
constexpr int LONGEST_BLOCK = 56;  // tiles: reading the filters once a block then costs little
constexpr int NEAR = 128;          // channels: their filters and two products' points stay in the L1
template <int R>
constexpr int DEPTH = R == 3 ? 32 : 16;

// Blocks as long as the cache allows, and then of equal length.
Index block_length(const Shape& of) {
    Index l2_bytes = 0;
#if defined(_SC_LEVEL2_CACHE_SIZE)
    l2_bytes = sysconf(_SC_LEVEL2_CACHE_SIZE);  // 0 or -1 where it is not known
#endif
    const Tiles tiles(of.height(), of.width());
    const Index bytes_of_tile = (of.R + 1) * (of.R + 1) * padded(of.C, CHANNELS) * Index(sizeof(float));
    const Index allowed = larger(l2_bytes, Index(1) << 20) / 2 / bytes_of_tile;
    const Index longest = smaller(larger(allowed, ROWS), LONGEST_BLOCK);
    const Index count = larger(1, of.N * tiles.down * tiles.across), blocks = ceil_div(count, longest);
    return padded(ceil_div(count, blocks), ROWS / 2);
}

// A call, with the sizes that follow from its shape.
struct Call {
    const Convolution& of;
    const Shape& shape = of.shape;
    Images images{of.input, of.gate, of.channels_last, shape.groups * shape.C, shape.H, shape.W};
    Images outputs{of.output, nullptr, of.channels_last, shape.groups * shape.K, shape.height(), shape.width()};
    Tiles tiles{shape.height(), shape.width()};
    Index count = shape.N * tiles.down * tiles.across, block = block_length(shape);
    Index panels = ceil_div(shape.K, FILTERS), C = padded(shape.C, CHANNELS);
};

// products (COUNT, WIDE) = points (COUNT, C) @ filters (C, WIDE), or are added to, behind the first channels. Meanwhile
// the points of the `next` such product are fetched to the L1, and lines from `ahead` on, some with every CHANNELS, to
// the L2.
template <int COUNT, int DEPTH>
void multiply_tiles(bool add, Index C, const float* points, const float* next, Index block, const float* filters,
                    const float* ahead, Index lines, float* products) {
    constexpr int LINE = 16;
    for (Index first = 0; first < C; first += DEPTH) {
        Floats sums[COUNT][VECTORS] = {};
        for (Index c = first; c < smaller(first + DEPTH, C); c += CHANNELS) {
            for (Index line = 0; line < lines; ++line, ahead += LINE) __builtin_prefetch(ahead, 0, 2);
            for (int t = 0; t < COUNT; ++t) __builtin_prefetch(next + t * CHANNELS);
            for (Index k = 0; k < smaller(CHANNELS, C - c); ++k, filters += FILTERS) {
                Floats beside[VECTORS];
                for (int j = 0; j < VECTORS; ++j) beside[j] = load<Floats>(filters + j * LANES);
#pragma GCC unroll 16
                for (int t = 0; t < COUNT; ++t) {
                    const Floats point = all(points[t * CHANNELS + k]);
                    for (int j = 0; j < VECTORS; ++j) sums[t][j] += point * beside[j];
                }
            }
            points += block * CHANNELS;
            next += block * CHANNELS;
        }
#pragma GCC unroll 16
        for (int t = 0; t < COUNT; ++t) {
            for (int j = 0; j < VECTORS; ++j) {
                float* to = products + t * FILTERS + j * LANES;
                store(to, add || first > 0 ? load<Floats>(to) + sums[t][j] : sums[t][j]);
            }
        }
    }
}

// The outputs of a run of tiles, of which the first begins at (row, column), in up to LANES channels from k on: A^T
// products A + bias, ReLU. `check` becomes NaN where one is not finite.
template <int R>
void to_outputs(const Call& call, Index tiles, Index n, Index row, Index column, Index k, Index filters,
                const float* products, Floats& check) {
    constexpr int P = R + 1;
    constexpr auto& A = matrices<R>.A;
    const Images& to = call.outputs;
    float* const output = call.of.output;
    const Floats bias = call.of.bias ? load_some(call.of.bias + k, filters) : Floats{};
    const Index rows = smaller(2, to.H - row), columns = smaller(2 * tiles, to.W - column);
    alignas(64) float lines[2][2 * LONGEST * LANES];
    for (Index t = 0; t < tiles; ++t, products += FILTERS) {
        Floats half[2][P];  // A^T products
        for (int j = 0; j < P; ++j) {
            Floats line[P], result[2];
#pragma GCC unroll 8
            for (int i = 0; i < P; ++i) line[i] = load<Floats>(products + (i * P + j) * call.block * FILTERS);
            multiply(A, line, result);
            half[0][j] = result[0];
            half[1][j] = result[1];
        }
        for (Index i = 0; i < rows; ++i) {
            Floats result[2];
            multiply(A, half[i], result);
            for (Index j = 0; j < smaller(2, columns - 2 * t); ++j) {
                Floats value = result[j] + bias;
                check += value * 0.0f;
                if (call.of.relu) value = value < Floats{} ? Floats{} : value;
                if (to.channels_last) {
                    store_some(output + to.place(n, k, row + i, column + 2 * t + j), value, filters);
                } else {
                    store(lines[i] + (2 * t + j) * LANES, value);
                }
            }
        }
    }
    if (to.channels_last) return;
    for (Index i = 0; i < rows; ++i) {
        for (Index j = 0; j < columns; j += LANES) {
            Floats x[LANES];
            across(columns - j, [&](Index w) { return load<Floats>(lines[i] + (j + w) * LANES); }, x);
            for (Index f = 0; f < smaller(LANES, filters); ++f) {
                store_some(output + to.place(n, k + f, row + i, column + j), x[f], columns - j);
            }
        }
    }
}

// The block of tiles from `first` on, for some panels of a group's filters. Whether all is finite.
template <int R>
bool convolve_block(const Call& call, Index first, Index group, Index panel, Index panels_end, float* points) {
    constexpr int P = R + 1;
    const Shape& shape = call.shape;
    const Index C = shape.C, tiles = smaller(call.block, call.count - first);
    const Index panel_size = C * FILTERS, points_size = call.C * call.block;
    float* products = points + P * P * points_size;
    for (Index c = 0; c < C; c += LANES) {
        float* to = points + c / CHANNELS * CHANNELS * call.block + c % CHANNELS;
        call.tiles.each_run(first, tiles, [&](Index tile, Index count, Index n, Index row, Index column) {
            to_points(matrices<R>.B, call.images, n, group * C + c, C - c, row - shape.padding_h,
                      column - shape.padding_w, count, to + tile * CHANNELS, points_size);
        });
    }

    // The panel after the one in use is fetched in as many equal parts as there are passes over that.
    const Index passes = ceil_div(tiles, ROWS), lines = ceil_div(2 * CHANNELS, passes * FILTERS / WIDE);
    Floats check = {};
    for (; panel < panels_end; ++panel) {
        for (int p = 0; p < P * P; ++p) {
            const float* filters = call.of.filters + ((group * call.panels + panel) * P * P + p) * panel_size;
            const float* ahead = filters + panel_size;
            for (Index c = 0; c < C; c += NEAR) {
                const Index channels = smaller(NEAR, C - c);
                for (Index t = 0; t < tiles; t += ROWS) {
                    const float* from = points + p * points_size + c * call.block + t * CHANNELS;
                    const float* next = t + ROWS < tiles ? from + ROWS * CHANNELS
                                        : c + NEAR < C   ? from + NEAR * call.block - t * CHANNELS
                                                         : points + (p + 1) % (P * P) * points_size;
                    for (int k = 0; k < FILTERS; k += WIDE, ahead += lines * channels) {
                        float* to = products + (p * call.block + t) * FILTERS + k;
                        (tiles - t > ROWS / 2
                             ? multiply_tiles<ROWS, DEPTH<R>>
                             : multiply_tiles<ROWS / 2, DEPTH<R>>)(c > 0, channels, from, next, call.block,
                                                                   filters + c * FILTERS + k, ahead, lines, to);
                    }
                }
            }
        }
        for (Index k = panel * FILTERS; k < smaller((panel + 1) * FILTERS, shape.K); k += LANES) {
            call.tiles.each_run(first, tiles, [&](Index tile, Index count, Index n, Index row, Index column) {
                to_outputs<R>(call, count, n, row, column, group * shape.K + k, shape.K - k,
                              products + tile * FILTERS + k % FILTERS, check);
            });
        }
    }
    return bits(check != check) == 0;
}

template <int R>
bool convolve_all(const Call& call) {
    const Index groups = call.shape.groups, panels = call.panels, threads = call.of.threads;
    const Index blocks = ceil_div(call.count, call.block), size = workspace<Isa::ALEXKERN_ISA>(call.shape);
    // Few blocks are shared out by their filters as well, though each part then goes to the points for itself.
    Index parts = 1;
    while (blocks * groups * parts % threads != 0 && blocks * groups * parts < 4 * threads && parts < panels) ++parts;
    bool finite = true;
    const Index numbers = call.block * call.shape.C * panels / parts * FILTERS;
    parallel(call.of.threads, blocks * groups * parts, numbers, [&](Index begin, Index end) {
#if defined(_OPENMP)
        float* own = call.of.workspace + omp_get_thread_num() * size;
#else
        float* own = call.of.workspace;
#endif
        for (Index unit = begin; unit < end; ++unit) {
            const Index part = unit % parts, group = unit / parts % groups, first = unit / parts / groups * call.block;
            if (!convolve_block<R>(call, first, group, part * panels / parts, (part + 1) * panels / parts, own)) {
                __atomic_store_n(&finite, false, __ATOMIC_RELAXED);
            }
        }
    });
    return finite;
}

}  // namespace

template <>
Index workspace<Isa::ALEXKERN_ISA>(const Shape& of) {
    return (of.R + 1) * (of.R + 1) * block_length(of) * (padded(of.C, CHANNELS) + FILTERS);
}

template <>
bool convolve<Isa::ALEXKERN_ISA>(const Convolution& of) {
    ran(of.channels_last ? "winograd, NHWC, " ALEXKERN_ISA_NAME : "winograd, NCHW, " ALEXKERN_ISA_NAME);
    const Call call{of};
    return of.shape.R == 3 ? convolve_all<3>(call) : convolve_all<5>(call);
}

}  // namespace alexkern::winograd
