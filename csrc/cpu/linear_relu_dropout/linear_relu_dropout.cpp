// Products with a weight that is far larger than its few rows. All are bound by the weight: it is read, or its gradient
// written, once. Sums are those of a tile that registers hold, over a short run of products, which are then added up in
// order: that order depends on sizes alone, and rounds off less than one running sum would.
//
// Rows of a weight are often multiples of 4 KiB apart, so that all fall into the same sets of the L1 cache. Hence each
// line is read once, from the L2, which it is fetched to as the one before it is multiplied; what is read again is
// copied side by side.
#include "linear_relu_dropout.h"

#if defined(_OPENMP)
#include <omp.h>
#endif

#include "../cache.h"
#include "../parallel.h"
#include "../simd.h"

namespace alexkern::linear_relu_dropout {

namespace {

using namespace ALEXKERN_ISA;

// A tile, as large as registers hold: rows of it, and vectors beside one another.
constexpr int ROWS = LANES == 16 ? 8 : 4;
constexpr int VECTORS = LANES == 4 ? 2 : 3;
constexpr int WIDE = VECTORS * LANES;
constexpr int FILTERS = 16;      // whose pages are open at a time: few enough for the processor's table of addresses
constexpr int HEIGHT = 32;       // of the input's gradient: of 16 its totals would go to the L2 and back twice as often
constexpr int WRITTEN = 32;      // filters whose gradients meet a block of the input before the next does
constexpr int BLOCK = 384;       // columns, whole tiles
constexpr int NEAR = 6144;       // numbers that stay in the L1
constexpr int TOTALS = 1 << 17;  // numbers that stay in the L2
constexpr int LINE = 64;         // bytes

// Columns of the input, whole `parts`, that fill half of the L2 while a weight passes through.
inline Index columns_near(Index rows, Index part) { return l2_bytes() / 2 / Index(sizeof(float)) / rows / part * part; }

inline void fetch(const void* from) { __builtin_prefetch(from, 0, 2); }  // to the L2

// sums[i][j] = the sum of left[s * step + i * row] * right(s, j) over s < count.
template <int COUNT, typename Right>
__attribute__((always_inline)) inline void multiply(const float* left, Index row, Index step, Index count,
                                                    const Right& right, Floats (&sums)[ROWS][COUNT]) {
    for (int i = 0; i < ROWS; ++i) {
        for (int j = 0; j < COUNT; ++j) sums[i][j] = Floats{};
    }
    for (Index s = 0; s < count; ++s) {
        Floats beside[COUNT];
        for (int j = 0; j < COUNT; ++j) beside[j] = right(s, j);
#pragma GCC unroll 8
        for (int i = 0; i < ROWS; ++i) {
            const Floats factor = all(left[s * step + i * row]);
            for (int j = 0; j < COUNT; ++j) sums[i][j] += factor * beside[j];
        }
    }
}

// totals[i * row + j * LANES ...] += sums[i][j]
template <int COUNT>
__attribute__((always_inline)) inline void add(float* totals, Index row, const Floats (&sums)[ROWS][COUNT]) {
    for (int i = 0; i < ROWS; ++i) {
        for (int j = 0; j < COUNT; ++j) {
            float* total = totals + i * row + j * LANES;
            store(total, load<Floats>(total) + sums[i][j]);
        }
    }
}

// The input as (blocks of `width` columns, rows, width), zeros beyond its last column and row.
template <typename T>
void pack_rows(const Sizes& at, const T* input, Index rows, Index width, float* packed, int threads) {
    parallel(threads, ceil_div(at.C, width), rows * width, [&](Index begin, Index end) {
        for (Index unit = begin * rows; unit < end * rows; ++unit) {
            const Index n = unit % rows, c0 = unit / rows * width;
            for (Index c = 0; c < width; c += LANES) {
                const Index there = n < at.N ? at.C - c0 - c : 0;
                store(packed + unit * width + c, load_some(input + n * at.C + c0 + c, there));
            }
        }
    });
}

// Outputs from their sums: `count` of them, which `bias` and `to` begin with.
template <typename T>
inline void finish(const float* sums, const T* bias, bool relu, Index count, T* to) {
    for (Index k = 0; k < count; k += LANES) {
        Floats value = load_some(sums + k, count - k);
        if (bias) value += load_some(bias + k, count - k);
        if (relu) value = value < Floats{} ? Floats{} : value;
        store_some(to + k, value, count - k);
    }
}

// Up to COUNT rows: dot products, columns in the lanes. The fewer rows, the less stands between the weight and memory's
// speed.
template <typename T, int COUNT>
void forward_dots(const Forward& call) {
    const Index N = call.sizes.N, C = call.sizes.C, K = call.sizes.K;
    const T *weight = static_cast<const T*>(call.weight), *bias = static_cast<const T*>(call.bias);
    T* const output = static_cast<T*>(call.output);
    constexpr int UNIT = 4 * VECTORS;  // filters that meet a block of the input before the next does
    pack_rows(call.sizes, static_cast<const T*>(call.input), COUNT, BLOCK, call.workspace, call.threads);
    parallel(call.threads, ceil_div(K, UNIT), UNIT * C, [&](Index begin, Index end) {
        for (Index k0 = begin * UNIT; k0 < end * UNIT; k0 += UNIT) {
            Floats totals[UNIT][COUNT] = {};
            for (Index c0 = 0; c0 < C; c0 += BLOCK) {
                const Index width = smaller(BLOCK, C - c0), ahead = c0 + BLOCK < C ? BLOCK : UNIT * C - c0;
                const float* rows = call.workspace + c0 * COUNT;
                for (int first = 0; first < UNIT; first += VECTORS) {
                    const T* filters[VECTORS];  // the last again, beyond the last
                    for (int j = 0; j < VECTORS; ++j) {
                        filters[j] = weight + smaller(k0 + first + j, K - 1) * C + c0;
                    }
                    Floats sums[COUNT][VECTORS] = {};
                    const auto step = [&](Index c, const auto& read) {
                        Floats beside[VECTORS];
                        for (int j = 0; j < VECTORS; ++j) beside[j] = read(filters[j] + c);
#pragma GCC unroll 8
                        for (int i = 0; i < COUNT; ++i) {
                            const Floats row = in_register(load<Floats>(rows + i * BLOCK + c));
                            for (int j = 0; j < VECTORS; ++j) sums[i][j] += row * beside[j];
                        }
                    };
                    Index c = 0;
                    for (; c + LANES <= width; c += LANES) {
                        for (const T* filter : filters) fetch(filter + c + ahead);
                        step(c, [](const T* from) { return load(from); });
                    }
                    if (c < width) step(c, [&](const T* from) { return load_some(from, width - c); });
                    for (int i = 0; i < COUNT; ++i) {
                        for (int j = 0; j < VECTORS; ++j) totals[first + j][i] += sums[i][j];
                    }
                }
            }
            for (Index n = 0; n < N; ++n) {
                float sums[UNIT];
                for (int k = 0; k < UNIT; ++k) {
                    float lanes[LANES];
                    store(lanes, totals[k][n]);
                    for (int half = LANES / 2; half > 0; half /= 2) {
                        for (int lane = 0; lane < half; ++lane) lanes[lane] += lanes[lane + half];
                    }
                    sums[k] = lanes[0];
                }
                finish(sums, bias ? bias + k0 : nullptr, call.relu, smaller(UNIT, K - k0), output + n * K + k0);
            }
        }
    });
}

// Meanwhile as many filters from `next` on are fetched, a line at a time: all at once they would hold up the tile.
template <int COUNT>
inline void add_product(const float* filters, Index C, const float* columns, Index rows, Index terms, const float* next,
                        Index next_step, float* totals) {
    constexpr Index EVERY = LINE / 4 / ROWS;
    Floats sums[ROWS][COUNT];
    const auto column = [&](Index s, int j) {
        if (j == 0 && s % EVERY == 0) fetch(next + s / EVERY % ROWS * next_step + s / (LINE / 4) * (LINE / 4));
        return load<Floats>(columns + s * rows + j * LANES);
    };
    multiply(filters, C, 1, terms, column, sums);
    add(totals, rows, sums);
}

// More rows: they lie in the lanes, and no sum goes across.
void forward_lanes(const Forward& call) {
    const Index N = call.sizes.N, C = call.sizes.C, K = call.sizes.K, rows = padded(N, LANES);
    const float *input = static_cast<const float*>(call.input), *weight = static_cast<const float*>(call.weight);
    const float* const bias = static_cast<const float*>(call.bias);
    float* columns = call.workspace;  // the input transposed: (C, rows)
    parallel(call.threads, ceil_div(C, LANES), rows * LANES, [&](Index begin, Index end) {
        for (Index c = begin * LANES; c < smaller(end * LANES, C); c += LANES) {
            for (Index n = 0; n < rows; ++n) {
                float lanes[LANES];
                store(lanes, n < N ? load_some(input + n * C + c, C - c) : Floats{});
                for (Index i = 0; i < smaller(LANES, C - c); ++i) columns[(c + i) * rows + n] = lanes[i];
            }
        }
    });
    float* totals = columns + C * rows;  // (K, rows)
    constexpr int MOST_TERMS = 128;      // of a sum
    const Index terms = smaller(MOST_TERMS, NEAR / rows / 16 * 16), range = columns_near(rows, terms);
    parallel(call.threads, ceil_div(K, FILTERS), FILTERS * C, [&](Index begin, Index end) {
        alignas(LINE) float edge[ROWS * MOST_TERMS] = {};
        __builtin_memset(totals + begin * FILTERS * rows, 0, (end - begin) * FILTERS * rows * sizeof(float));
        const Index units = end - begin, ranges = ceil_div(C, range);
        for (Index unit = 0; unit < ranges * units; ++unit) {
            const Index first = unit / units * range, beyond = smaller(first + range, C);
            const Index k0 = (begin + unit % units) * FILTERS, last = smaller(k0 + FILTERS, K);
            for (Index c = first; c < beyond; c += terms) {
                const Index some = smaller(terms, beyond - c);
                const Index ahead = c + terms < beyond ? terms : FILTERS * C - (c - first);
                for (Index k = k0; k < last; k += ROWS) {
                    const float* filters = weight + k * C + c;
                    Index step = C;
                    const float* here = filters;
                    if (k + ROWS > last) {
                        for (Index i = 0; i < last - k; ++i) {
                            for (Index s = 0; s < some; ++s) edge[i * MOST_TERMS + s] = filters[i * C + s];
                        }
                        filters = edge;
                        step = MOST_TERMS;
                    }
                    for (Index n = 0; n < rows; n += WIDE) {
                        const float* next = n == 0 ? here + ahead : here;  // once
                        const float* beside = columns + c * rows + n;
                        float* to = totals + k * rows + n;
                        if (rows - n >= WIDE) {
                            add_product<VECTORS>(filters, step, beside, rows, some, next, C, to);
                        } else if (rows - n > LANES) {
                            add_product<2>(filters, step, beside, rows, some, next, C, to);
                        } else {
                            add_product<1>(filters, step, beside, rows, some, next, C, to);
                        }
                    }
                }
            }
            if (beyond < C) continue;
            for (Index n = 0; n < N; ++n) {
                float sums[FILTERS];
                for (Index k = k0; k < last; ++k) sums[k - k0] = totals[k * rows + n];
                finish(sums, bias ? bias + k0 : nullptr, call.relu, last - k0,
                       static_cast<float*>(call.output) + n * K + k0);
            }
        }
    });
}

// The gradients that ReLU and dropout let pass, transposed, (K, rows): zeros beyond the last row.
void pack_grad(const Backward& call, Index rows, float* packed) {
    const Index N = call.sizes.N, K = call.sizes.K;
    const float *grad = call.grad, *output = call.output;
    const float scale = call.scale;
    const std::uint8_t* mask = call.mask;
    parallel(call.threads, ceil_div(K, FILTERS), FILTERS * rows, [&](Index begin, Index end) {
        const Index first = begin * FILTERS, last = smaller(end * FILTERS, K);
        __builtin_memset(packed + first * rows, 0, (last - first) * rows * sizeof(float));
        for (Index n = 0; n < N; ++n) {
            for (Index k = first; k < last; ++k) {
                const Index at = n * K + k;
                const bool passes = mask ? mask[at / 8] >> at % 8 & 1 : !(output[at] <= 0);
                packed[k * rows + n] = passes ? grad[at] * scale : 0;
            }
        }
    });
}

// A tile of filters [k, k + height) and columns from c on, for all rows, added to their totals. What is multiplied with
// the first rows is copied for the others, and what lies `ahead` is fetched.
template <bool WHOLE>
inline void add_input_gradient(const Backward& call, const float* grad, Index rows, Index k, Index height, Index c,
                               Index ahead, float* tile, float* totals, Index range) {
    const Index C = call.sizes.C;
    const auto first = [&](Index s, int j) {
        const float* from = call.weight + (k + s) * C + c + j * LANES;
        fetch(from + ahead);
        const Floats value = WHOLE ? load<Floats>(from) : load_some(from, C - c - j * LANES);
        store(tile + s * WIDE + j * LANES, value);
        return value;
    };
    const auto other = [&](Index s, int j) { return load<Floats>(tile + s * WIDE + j * LANES); };
    for (Index n = 0; n < rows; n += ROWS) {
        Floats sums[ROWS][VECTORS];
        if (n == 0) {
            multiply(grad + k * rows, 1, rows, height, first, sums);
        } else {
            multiply(grad + k * rows + n, 1, rows, height, other, sums);
        }
        add(totals + n * range, range, sums);
    }
}

// Columns in the lanes. A thread goes through all filters for a range of columns, the wider the fewer pages; all are of
// one width, and threads have as many of them each.
void input_gradient(const Backward& call, const float* grad, Index rows, float* workspace) {
    const Index N = call.sizes.N, C = call.sizes.C, K = call.sizes.K;
    const Index widest = TOTALS / rows / WIDE * WIDE;
    const Index ranges = padded(larger(2 * call.threads, ceil_div(C, widest)), call.threads);
    const Index range = padded(ceil_div(C, ranges), WIDE);
    parallel(call.threads, ceil_div(C, range), range * K, [&](Index begin, Index end) {
        alignas(LINE) float tile[HEIGHT * WIDE];
#if defined(_OPENMP)
        float* totals = workspace + omp_get_thread_num() * TOTALS;  // (rows, range)
#else
        float* totals = workspace;
#endif
        for (Index c0 = begin * range; c0 < smaller(end * range, C); c0 += range) {
            const Index width = smaller(range, C - c0);
            __builtin_memset(totals, 0, rows * range * sizeof(float));
            for (Index k = 0; k < K; k += HEIGHT) {
                const Index height = smaller(HEIGHT, K - k);
                for (Index c = 0; c < width; c += WIDE) {
                    const Index ahead = c + BLOCK < width ? Index(BLOCK) : HEIGHT * C - c / BLOCK * BLOCK;
                    const bool whole = c + WIDE <= width;
                    (whole ? add_input_gradient<true> : add_input_gradient<false>)(call, grad, rows, k, height, c0 + c,
                                                                                   ahead, tile, totals + c, range);
                }
            }
            for (Index n = 0; n < N; ++n) {
                for (Index c = 0; c < width; c += LANES) {
                    store_some(call.input_grad + n * C + c0 + c, load<Floats>(totals + n * range + c), width - c);
                }
            }
        }
    });
}

// Columns in the lanes, and all rows summed up in registers: what takes time is writing the result. STREAM: past the
// caches, where a store fills a line of them by itself and the result is of no use there.
template <bool STREAM>
void weight_gradient(const Backward& call, const float* grad, Index rows, float* packed) {
    const Index N = call.sizes.N, C = call.sizes.C, K = call.sizes.K;
    Index block = BLOCK;
    while (block * N > NEAR) block /= 2;
    pack_rows(call.sizes, call.input, N, block, packed, call.threads);
    const Index range = columns_near(N, block);
    parallel(call.threads, ceil_div(K, WRITTEN), WRITTEN * C, [&](Index begin, Index end) {
        alignas(LINE) float left[MOST_ROWS * WRITTEN];  // gradients, (N, WRITTEN)
        const Index units = end - begin, ranges = ceil_div(C, range);
        for (Index unit = 0; unit < ranges * units; ++unit) {
            const Index first = unit / units * range, beyond = smaller(first + range, C);
            const Index k0 = (begin + unit % units) * WRITTEN, last = smaller(k0 + WRITTEN, K);
            for (Index i = 0; i < WRITTEN; ++i) {
                for (Index n = 0; n < N; ++n) left[n * WRITTEN + i] = k0 + i < last ? grad[(k0 + i) * rows + n] : 0;
            }
            for (Index c0 = first; c0 < beyond; c0 += block) {
                for (Index k = k0; k < last; k += ROWS) {
                    for (Index c = c0; c < smaller(c0 + block, beyond); c += WIDE) {
                        const float* columns = packed + c0 * N + c - c0;
                        const auto column = [&](Index s, int j) {
                            return load<Floats>(columns + s * block + j * LANES);
                        };
                        Floats sums[ROWS][VECTORS];
                        multiply(left + k - k0, 1, WRITTEN, N, column, sums);
#pragma GCC unroll 8
                        for (int i = 0; i < ROWS; ++i) {
                            float* to = call.weight_grad + (k + i) * C + c;
                            if (k + i >= last) break;
#pragma GCC unroll 3
                            for (int j = 0; j < VECTORS; ++j) {
                                const Index there = C - c - j * LANES;
                                if (STREAM && there >= LANES) {
                                    stream(to + j * LANES, sums[i][j]);
                                } else {
                                    store_some(to + j * LANES, sums[i][j], there);
                                }
                            }
                        }
                    }
                }
            }
        }
        if (STREAM) end_of_stream();
    });
}

inline bool streams(const Backward& call) {
    constexpr Index large = Index(1) << 21;  // numbers
    const bool aligned = 4 * call.sizes.C % LINE == 0 && reinterpret_cast<std::uintptr_t>(call.weight_grad) % LINE == 0;
    return 4 * LANES == LINE && aligned && call.sizes.C * call.sizes.K >= large;
}

// Four sums for a filter, as one alone would round off more.
void bias_gradient(const Backward& call, const float* grad, Index rows) {
    parallel(call.threads, call.sizes.K, rows, [&](Index begin, Index end) {
        for (Index k = begin; k < end; ++k) {
            float sums[4] = {};
            for (Index n = 0; n < rows; ++n) sums[n % 4] += grad[k * rows + n];
            call.bias_grad[k] = (sums[0] + sums[1]) + (sums[2] + sums[3]);
        }
    });
}

}  // namespace

// Of the forward the input in another order; of the backward that, the gradients, and totals of every thread.
template <>
std::int64_t workspace<Isa::ALEXKERN_ISA>(const Sizes& at, int threads) {
    return padded(at.N, MOST_LANES) * (at.K + at.C + BLOCK) + Index(threads) * TOTALS;
}

template <>
void forward<Isa::ALEXKERN_ISA>(const Forward& call) {
    const bool dots = call.sizes.N <= ROWS;
    ran(dots ? "linear_relu_dropout forward, dot products, " ALEXKERN_ISA_NAME
             : "linear_relu_dropout forward, rows in lanes, " ALEXKERN_ISA_NAME);
    static_assert(MOST_ROWS_BFLOAT16 <= ROWS, "rows in lanes are float32");
    if (!dots) return forward_lanes(call);
    on_numbers(call.bfloat16, [&](auto number) {
        using T = decltype(number);
        if (call.sizes.N == 1) return forward_dots<T, 1>(call);
        call.sizes.N <= ROWS / 2 ? forward_dots<T, ROWS / 2>(call) : forward_dots<T, ROWS>(call);
    });
}

template <>
void backward<Isa::ALEXKERN_ISA>(const Backward& call) {
    ran("linear_relu_dropout backward, " ALEXKERN_ISA_NAME);
    const Index rows = padded(call.sizes.N, ROWS);
    float *grad = call.workspace, *rest = grad + padded(call.sizes.K * rows, LINE / 4);
    pack_grad(call, rows, grad);
    if (call.bias_grad) bias_gradient(call, grad, rows);
    if (call.input_grad) input_gradient(call, grad, rows, rest);
    if (call.weight_grad) {
        streams(call) ? weight_gradient<true>(call, grad, rows, rest) : weight_gradient<false>(call, grad, rows, rest);
    }
}

}  // namespace alexkern::linear_relu_dropout
