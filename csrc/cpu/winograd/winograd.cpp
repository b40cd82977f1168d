// Winograd's F(MxM, RxR). A tile is M x M outputs of one image; it reads P x P pixels, P = M + R - 1, some of which it
// shares with its neighbours. A thread takes a block of tiles at a time:
//
//   points    [P][P][C / 16][block][16]   B^T d B of every tile and channel: half of the L2 cache
//   products  [P][P][block][32]           points x filters
//   outputs   [M][M][32] of every tile    A^T products A + bias, ReLU
//
// the last two for one panel of 32 output channels after the other. The products are P^2 matrix products of [block, C]
// by [C, 32], as many tiles at a time as registers hold sums for two vectors of channels. Filters, [K /
// 32][P][P][C][32], are read in order, once a block, and fetched into the L2 cache one [C, 32] ahead of their use.
//
// Most of the rounding error comes of adding up C products: a sum goes on for TERMS of them, and is then added to those
// before. docs/cpu.md has the errors in figures.
//
// Of bfloat16 two channels stand in a word, and 16 and C count words: one instruction takes both products of a word and
// adds them to a sum of float32.
#include "winograd.h"

#if defined(_OPENMP)
#include <omp.h>
#endif

#include "../cache.h"
#include "../parallel.h"
#include "pack.h"

namespace alexkern::winograd {

namespace {

using namespace ALEXKERN_ISA;

constexpr int ROWS = LANES == 16 ? 14 : 6;  // tiles in registers
constexpr int VECTORS = 2;
constexpr int WIDE = VECTORS * LANES;
constexpr int PIECES = 64;         // a thread, of a block or an image each
constexpr int LONGEST_BLOCK = 56;  // tiles: reading the filters once a block then costs little
constexpr int NEAR = 128;          // words of channels: their filters and two products' points stay in the L1
template <int P>
constexpr int TERMS = P == 4 ? 32 : 16;

// Blocks as long as the cache allows, and then of equal length.
template <typename T>
Index block_length(const Shape& of, Index count) {
    const Index bytes_of_tile = of.points() * padded(of.C, CHANNELS<T>) * Index(sizeof(T));
    const Index allowed = l2_bytes() / 2 / bytes_of_tile;
    const Index longest = smaller(larger(allowed, ROWS), LONGEST_BLOCK);
    const Index blocks = ceil_div(count, longest);
    return padded(ceil_div(count, blocks), ROWS / 2);
}

// The tiles that are cut into blocks: of all images, or where they are pooled, of one.
Index tiles_of(const Shape& of, const max_pool2d::Forward* pool) {
    const Tiles tiles(of.P, of.Q, of.M);
    return larger(1, (pool ? 1 : of.N) * tiles.down * tiles.across);
}

// Floats that a thread needs: first those of a block's products, then its points, and an image's outputs.
template <typename T>
struct Space {
    Index products, points, gathered, outputs;

    Space(const Shape& of, Index block, const max_pool2d::Forward* pool)
        : products(of.points() * block * FILTERS),
          points(of.points() * (block * padded(of.C, CHANNELS<T>) + SKEW<T>) / PER_WORD<T>),
          gathered(ceil_div(gathered_size(of), PER_WORD<T>)),
          outputs(pool ? ceil_div(of.groups * of.K * of.P * of.Q, PER_WORD<T>) : 0) {}
    Index size() const { return products + points + gathered + outputs; }
};

// A call, with the sizes that follow from its shape.
template <typename T>
struct Call {
    const Convolution& of;
    const Shape& shape = of.shape;
    Images<T> images = images_of<T>(of.input, of.gate, of.channels_last, shape);
    Images<T> outputs{nullptr, nullptr, of.channels_last, shape.groups * shape.K, shape.P, shape.Q};
    Tiles tiles{shape.P, shape.Q, shape.M};
    Index count = tiles_of(shape, of.pool), block = block_length<T>(shape, count);
    Index panels = ceil_div(shape.K, FILTERS), C = padded(shape.C, CHANNELS<T>);
    Space<T> space{shape, block, of.pool};
    // Filters that are read once are packed panel by panel, and stay in the cache until then.
    bool packs = of.weight && count <= block && (!of.pool || shape.N == 1);
};

// Some tiles and panels of a group, and where their outputs go: image n lies at place n - `image` there.
template <typename T>
struct Part {
    Index first, tiles, group, panel, panels_end;
    T* output;
    Index image;
};

// products (COUNT, WIDE) = points (COUNT, C) @ filters (C, WIDE), or are added to, behind the first channels; C, and
// what pointers count, in words. Meanwhile the points of the `next` such product are fetched to the L1, and lines from
// `ahead` on, some with every line of points, to the L2.
template <typename T, int COUNT, int TERMS>
void multiply_tiles(bool add, Index C, const float* points, const float* next, Index block, const float* filters,
                    const float* ahead, Index lines, float* products) {
    for (Index first = 0; first < C; first += TERMS) {
        Floats sums[COUNT][VECTORS] = {};
        for (Index c = first; c < smaller(first + TERMS, C); c += WORDS) {
            for (Index line = 0; line < lines; ++line, ahead += WORDS) __builtin_prefetch(ahead, 0, 2);
            for (int t = 0; t < COUNT; ++t) __builtin_prefetch(next + t * WORDS);
            for (Index k = 0; k < smaller(WORDS, C - c); ++k, filters += FILTERS) {
                Floats beside[VECTORS];
                for (int j = 0; j < VECTORS; ++j) beside[j] = load<Floats>(filters + j * LANES);
#pragma GCC unroll 16
                for (int t = 0; t < COUNT; ++t) {
                    const Floats point = all(load<float>(points + t * WORDS + k));
                    for (int j = 0; j < VECTORS; ++j) sums[t][j] = add_product<T>(sums[t][j], point, beside[j]);
                }
            }
            points += block * WORDS;
            next += block * WORDS;
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
template <int M, int R, typename T>
void to_outputs(const Call<T>& call, T* output, Index tiles, Index n, Index row, Index column, Index k, Index filters,
                const float* products, Floats& check) {
    constexpr int P = M + R - 1;
    constexpr auto& A = matrices<M, R>.A;
    const Images<T>& to = call.outputs;
    const Floats bias = call.of.bias ? load_some(static_cast<const T*>(call.of.bias) + k, filters) : Floats{};
    const Index rows = smaller(M, to.H - row), columns = smaller(M * tiles, to.W - column);
    alignas(64) float lines[M][M * LONGEST * LANES];
    for (Index t = 0; t < tiles; ++t, products += FILTERS) {
        Floats half[M][P];  // A^T products
        for (int j = 0; j < P; ++j) {
            Floats line[P], result[M];
#pragma GCC unroll 8
            for (int i = 0; i < P; ++i) line[i] = load<Floats>(products + (i * P + j) * call.block * FILTERS);
            multiply(A, line, result);
            for (int i = 0; i < M; ++i) half[i][j] = result[i];
        }
        for (Index i = 0; i < rows; ++i) {
            Floats result[M];
            multiply(A, half[i], result);
            for (Index j = 0; j < smaller(M, columns - M * t); ++j) {
                Floats value = result[j] + bias;
                check += value * 0.0f;
                if (call.of.relu) value = value < Floats{} ? Floats{} : value;
                if (to.channels_last) {
                    store_some(output + to.place(n, k, row + i, column + M * t + j), value, filters);
                } else {
                    store(lines[i] + (M * t + j) * LANES, value);
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

// A block of tiles. Whether all is finite.
template <int M, int R, typename T>
bool convolve_block(const Call<T>& call, const Part<T>& part, float* space) {
    constexpr int P = M + R - 1;
    const Shape& shape = call.shape;
    const Index C = shape.C, first = part.first, tiles = part.tiles, group = part.group;
    float *const products = space, *const words = products + call.space.products;
    T *const points = reinterpret_cast<T*>(words), *const gathered = reinterpret_cast<T*>(words + call.space.points);
    const Index points_size = call.C * call.block + SKEW<T>;
    call.tiles.each_run(first, tiles, [&](Index tile, Index count, Index n, Index row, Index column) {
        all_to_points<M, CHANNELS<T>>(matrices<M, R>.B, call.images, shape, n, group * C, C, row, column, count,
                                      gathered, points + tile * CHANNELS<T>, CHANNELS<T> * call.block, points_size);
    });

    // The panel after the one in use is fetched in as many equal parts as there are passes over that.
    const Index passes = ceil_div(tiles, ROWS), lines = ceil_div(2 * WORDS, passes * FILTERS / WIDE);
    const Index depth = ceil_div(C, PER_WORD<T>), step = points_size / PER_WORD<T>;  // in words
    Floats check = {};
    for (Index panel = part.panel; panel < part.panels_end; ++panel) {
        const Index place = group * call.panels + (call.packs ? part.panel : panel);
        T* const packed = static_cast<T*>(call.of.filters) + place * P * P * panel_size<T>(shape);
        if (call.packs) {
            for (int k = 0; k < FILTERS; k += LANES) pack_lanes<M, R>(shape, *call.of.weight, group, panel, k, packed);
        }
        for (int p = 0; p < P * P; ++p) {
            const float* filters = reinterpret_cast<float*>(packed) + p * depth * FILTERS;
            const float* ahead = filters + depth * FILTERS;
            for (Index c = 0; c < depth; c += NEAR) {
                const Index terms = smaller(NEAR, depth - c);
                for (Index t = 0; t < tiles; t += ROWS) {
                    const float* from = words + p * step + c * call.block + t * WORDS;
                    const float* next = t + ROWS < tiles   ? from + ROWS * WORDS
                                        : c + NEAR < depth ? from + NEAR * call.block - t * WORDS
                                                           : words + (p + 1) % (P * P) * step;
                    for (int k = 0; k < FILTERS; k += WIDE, ahead += lines * terms) {
                        float* to = products + (p * call.block + t) * FILTERS + k;
                        (tiles - t > ROWS / 2
                             ? multiply_tiles<T, ROWS, TERMS<P>>
                             : multiply_tiles<T, ROWS / 2, TERMS<P>>)(c > 0, terms, from, next, call.block,
                                                                      filters + c * FILTERS + k, ahead, lines, to);
                    }
                }
            }
        }
        for (Index k = panel * FILTERS; k < smaller((panel + 1) * FILTERS, shape.K); k += LANES) {
            call.tiles.each_run(first, tiles, [&](Index tile, Index count, Index n, Index row, Index column) {
                to_outputs<M, R>(call, part.output, count, n - part.image, row, column, group * shape.K + k,
                                 shape.K - k, products + tile * FILTERS + k % FILTERS, check);
            });
        }
    }
    return bits(check != check) == 0;
}

template <typename T>
float* own_workspace(const Call<T>& call) {
#if defined(_OPENMP)
    return call.of.workspace + omp_get_thread_num() * call.space.size();
#else
    return call.of.workspace;
#endif
}

// Image by image, whose outputs stay in the cache until they are pooled.
template <int M, int R, typename T>
bool pool_all(const Call<T>& call) {
    const Shape& of = call.shape;
    const max_pool2d::Forward& pool = *call.of.pool;
    const Index size = of.groups * of.K * pool.windows.P * pool.windows.Q, bytes = pool.wide_offsets ? 4 : 1;
    bool finite = true;
    const Index numbers = call.count * of.groups * of.C * call.panels * FILTERS;
    parallel<PIECES>(call.of.threads, of.N, numbers, [&](Index begin, Index end) {
        float* const own = own_workspace(call);
        T* const outputs = reinterpret_cast<T*>(own + call.space.size() - call.space.outputs);
        max_pool2d::Forward one = pool;
        one.input = outputs;
        one.workspace = call.of.workspace + call.of.threads * call.space.size();  // of all, as it counts them too
        for (Index n = begin; n < end; ++n) {
            for (Index unit = 0; unit < of.groups * ceil_div(call.count, call.block); ++unit) {
                const Index first = unit / of.groups * call.block, tiles = smaller(call.block, call.count - first);
                const Part<T> part{n * call.count + first, tiles, unit % of.groups, 0, call.panels, outputs, n};
                if (!convolve_block<M, R>(call, part, own)) __atomic_store_n(&finite, false, __ATOMIC_RELAXED);
            }
            one.output = static_cast<T*>(pool.output) + n * size;
            one.offsets = pool.offsets ? static_cast<char*>(pool.offsets) + n * size * bytes : nullptr;
            max_pool2d::forward<Isa::ALEXKERN_ISA>(one);
        }
    });
    return finite;
}

template <int M, int R, typename T>
bool convolve_all(const Call<T>& call) {
    const Index groups = call.shape.groups, panels = call.panels, threads = call.of.threads;
    const Index blocks = ceil_div(call.count, call.block);
    // Few blocks are shared out by their filters as well, though each part then goes to the points for itself.
    Index parts = 1;
    while (blocks * groups * parts % threads != 0 && blocks * groups * parts < 4 * threads && parts < panels) ++parts;
    bool finite = true;
    const Index numbers = call.block * call.shape.C * panels / parts * FILTERS;
    parallel<PIECES>(call.of.threads, blocks * groups * parts, numbers, [&](Index begin, Index end) {
        float* own = own_workspace(call);
        for (Index unit = begin; unit < end; ++unit) {
            const Index place = unit % parts, first = unit / parts / groups * call.block;
            const Part<T> part{first,
                               smaller(call.block, call.count - first),
                               unit / parts % groups,
                               place * panels / parts,
                               (place + 1) * panels / parts,
                               static_cast<T*>(call.of.output),
                               0};
            if (!convolve_block<M, R>(call, part, own)) __atomic_store_n(&finite, false, __ATOMIC_RELAXED);
        }
    });
    return finite;
}

}  // namespace

template <>
Index workspace<Isa::ALEXKERN_ISA>(const Shape& of, const max_pool2d::Forward* pool) {
    const bool rows = pool && !pool->channels_last;
    const Index size = on_products(of, [&](auto number) {
        using T = decltype(number);
        return Space<T>(of, block_length<T>(of, tiles_of(of, pool)), pool).size();
    });
    return size + (rows ? max_pool2d::workspace<Isa::ALEXKERN_ISA>(pool->windows) : 0);
}

template <>
bool convolve<Isa::ALEXKERN_ISA>(const Convolution& of) {
    const bool finite = on_tiles(of.shape, [&](auto number, auto M, auto R) {
        const Call<decltype(number)> call{of};
        if (of.weight && !call.packs) pack<Isa::ALEXKERN_ISA>({of.shape, *of.weight, of.filters, of.threads});
        return of.pool ? pool_all<M, R>(call) : convolve_all<M, R>(call);
    });
    const bool large = of.shape.M == 4;
    ran(of.channels_last ? (large ? "winograd 4x4, NHWC, " ALEXKERN_ISA_NAME : "winograd, NHWC, " ALEXKERN_ISA_NAME)
                         : (large ? "winograd 4x4, NCHW, " ALEXKERN_ISA_NAME : "winograd, NCHW, " ALEXKERN_ISA_NAME));
    return finite;
}

}  // namespace alexkern::winograd
