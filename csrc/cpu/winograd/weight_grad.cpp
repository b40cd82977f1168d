// The gradient of a filter, G^T [sum over tiles of (B^T d B) (A dy A^T)] G for a tile's pixels d and its outputs'
// gradients dy: of 3x3 Winograd's F(2x2, 3x3), transposed, for 16 of 36 products. Of 5 taps the first three come of the
// tile's first four pixels in this way and the last two of its last three, by F(2, 2): 7 x 7 products for 100. Those of
// F(2x2, 5x5), 6 x 6, have three times the rounding error. A gradient's points serve both.
//
// A thread takes a share, some channels and some filters, as many as have their sums in the L2 cache, and goes through
// all tiles, a block at a time; I = 4 or 7:
//
//   inputs  [I][I][channels / 16][block][16]   B^T d B
//   grads   [4][4][filters / 16][block][16]    A dy A^T
//   totals  [I][I][channels][filters]          += inputs x grads, summed up over TERMS tiles in registers
//
// Of bfloat16 a block has twice as many tiles, and a word a channel's points of two of them, one beside the other: one
// instruction takes both products of a word and adds them to a sum of float32.
//
// A gradient of few shares, as of a network's first layer, has its tiles cut into parts as well, with totals of their
// own, which are added up at the end: smaller shares would take all pixels and gradients to their points once each.
#if defined(_OPENMP)
#include <omp.h>
#endif

#include "../parallel.h"
#include "points.h"

namespace alexkern::winograd {

namespace {

using namespace ALEXKERN_ISA;

constexpr int ROWS = LANES == 16 ? 8 : 4;  // channels in registers
constexpr int VECTORS = 2;                 // and vectors of filters
constexpr int WIDE = VECTORS * LANES;
constexpr int STEPS = 32;  // words of tiles in a block
constexpr int TERMS = 32;
constexpr int BESIDE = WORDS;  // channels or filters whose points lie side by side
template <typename T>
constexpr int BLOCK = STEPS * PER_WORD<T>;                         // tiles
constexpr Index MOST = 128, LEAST_FILTERS = VECTORS * MOST_LANES;  // channels or filters of a share
constexpr Index MOST_TOTALS = Index(1) << 18;                      // 1 MiB of them, the L2
constexpr Index LEAST_SHARES = 4, PARTS = 8;                       // of fewer, parts of shares to come to
constexpr Index LEAST_BLOCKS = 8;                                  // of a part

// The points of two gradients: of F(2, 3), those of F(2, 2) among them.
constexpr int GRADS = 4;

template <int R>
struct Gradient {
    static constexpr int inputs = R == 3 ? 4 : 7;
    double A[GRADS][2] = {}, G[R][inputs] = {}, B[inputs][R + 1] = {};
    int grads[inputs] = {};  // which of their points an input's is multiplied by

    constexpr Gradient() {
        for (int i = 0; i < GRADS; ++i) {
            for (int j = 0; j < 2; ++j) A[i][j] = matrices<2, 3>.A[j][i];
        }
        add<3>(0, 0);
        if (R == 5) add<2>(4, 3);
    }

    // Taps from `tap` on, by as many points and one more, from `point` on.
    template <int TAPS>
    constexpr void add(int point, int tap) {
        for (int i = 0; i <= TAPS; ++i) {
            for (int j = 0; j <= TAPS; ++j) B[point + i][tap + j] = matrices<2, TAPS>.B[i][j];
            for (int j = 0; j < TAPS; ++j) G[tap + j][point + i] = matrices<2, TAPS>.G[i][j];
            grads[point + i] = i < TAPS ? i : GRADS - 1;  // the last is infinity
        }
    }
};
template <int R>
inline constexpr Gradient<R> gradient{};

// How the work is shared out. Parts depend on the shape alone, so that bits do not depend on threads.
template <typename T>
struct Cut {
    const Shape& of;
    Tiles tiles{of.P, of.Q, 2};
    Index count = of.N * tiles.down * tiles.across, blocks = ceil_div(count, BLOCK<T>), parts = 1;
    Index inputs = of.R == 3 ? gradient<3>.inputs : gradient<5>.inputs, channels = MOST, filters = MOST;

    Cut(const Shape& of, Index threads) : of(of) {
        while (totals() > MOST_TOTALS) (channels < filters ? filters : channels) /= 2;
        if (shares() < LEAST_SHARES) parts = smaller(PARTS / shares(), larger(1, blocks / LEAST_BLOCKS));
        if (threads == 1) return;
        // Smaller shares, where there would not be one for each thread.
        while (shares() * parts < 2 * threads && filters > LEAST_FILTERS) filters /= 2;
        while (shares() * parts < 2 * threads && channels > BESIDE) channels /= 2;
    }
    Index across_c() const { return ceil_div(of.C, channels); }
    Index across_k() const { return ceil_div(of.K, filters); }
    Index shares() const { return of.groups * across_c() * across_k(); }

    // Floats of a block's points, and of a share's totals.
    Index points() const {
        return inputs * inputs * (channels * STEPS + WORDS) + GRADS * GRADS * (filters * STEPS + WORDS) +
               ceil_div(gathered_size(of), PER_WORD<T>);
    }
    Index totals() const { return inputs * inputs * channels * filters; }
};

struct Share {
    Index group, c, channels, k, filters;  // from c and k on

    template <typename T>
    Share(const Cut<T>& cut, Index index)
        : group(index / cut.across_k() / cut.across_c()),
          c(index / cut.across_k() % cut.across_c() * cut.channels),
          channels(smaller(cut.channels, cut.of.C - c)),
          k(index % cut.across_k() * cut.filters),
          filters(smaller(cut.filters, cut.of.K - k)) {}

    Index row() const { return padded(filters, WIDE); }            // of totals
    Index step() const { return padded(channels, ROWS) * row(); }  // from a point's totals to the next one's
};

// totals (ROWS, WIDE) += inputs (count, ROWS) transposed @ grads (count, WIDE), word by word of tiles.
template <typename T>
void add_products(Index count, const float* inputs, const float* grads, float* totals, Index row) {
    for (Index first = 0; first < count; first += TERMS) {
        Floats sums[ROWS][VECTORS] = {};
        for (Index t = first; t < smaller(first + TERMS, count); ++t) {
            Floats beside[VECTORS];
            for (int j = 0; j < VECTORS; ++j) {
                const int k = j * LANES;
                beside[j] = load<Floats>(grads + k / BESIDE * BESIDE * STEPS + t * BESIDE + k % BESIDE);
            }
#pragma GCC unroll 8
            for (int i = 0; i < ROWS; ++i) {
                const Floats input = all(load<float>(inputs + t * BESIDE + i));
                for (int j = 0; j < VECTORS; ++j) sums[i][j] = add_product<T>(sums[i][j], input, beside[j]);
            }
        }
#pragma GCC unroll 8
        for (int i = 0; i < ROWS; ++i) {
            for (int j = 0; j < VECTORS; ++j) {
                float* total = totals + i * row + j * LANES;
                store(total, load<Floats>(total) + sums[i][j]);
            }
        }
    }
}

// Up to LANES channels from c on, and the filters from k on that are there, of a share's totals, those of its parts
// added up, to the gradient itself.
template <int R, typename T>
void to_taps(const WeightGrad& call, const Cut<T>& cut, const Share& share, const float* totals, Index c, Index k,
             Floats& check) {
    constexpr int P = gradient<R>.inputs, TAPS = R * R;
    const Index C = call.shape.C, channels = smaller(LANES, share.channels - c), filters = share.filters - k;
    alignas(64) float taps[LANES * TAPS * LANES];  // a channel's taps side by side, or a tap's channels
    for (Index d = 0; d < channels; ++d) {
        Floats half[R][P];  // G^T totals
        for (int j = 0; j < P; ++j) {
            Floats column[P] = {}, result[R];
            for (Index part = 0; part < cut.parts; ++part) {
                const float* from = totals + part * cut.totals() + (c + d) * share.row() + k;
                for (int i = 0; i < P; ++i) column[i] += load<Floats>(from + (i * P + j) * share.step());
            }
            multiply(gradient<R>.G, column, result);
            for (int r = 0; r < R; ++r) half[r][j] = result[r];
        }
        for (int r = 0; r < R; ++r) {
            Floats result[R];
            multiply(gradient<R>.G, half[r], result);
            for (int s = 0; s < R; ++s) {
                check += result[s] * 0.0f;
                const Index tap = r * R + s;
                store(taps + (call.channels_last ? tap * channels + d : d * TAPS + tap) * LANES, result[s]);
            }
        }
    }
    const auto write = [&](const float* from, Index length, T* to) {
        for (Index m = 0; m < length; m += LANES) {
            Floats x[LANES];
            across(length - m, [&](Index i) { return load<Floats>(from + (m + i) * LANES); }, x);
            for (Index f = 0; f < smaller(LANES, filters); ++f) store_some(to + f * C * TAPS + m, x[f], length - m);
        }
    };
    T* to = static_cast<T*>(call.weight_grad) + (share.group * call.shape.K + share.k + k) * C * TAPS;
    if (call.channels_last) {
        for (Index tap = 0; tap < TAPS; ++tap) {
            write(taps + tap * channels * LANES, channels, to + tap * C + share.c + c);
        }
    } else {
        write(taps, channels * TAPS, to + (share.c + c) * TAPS);
    }
}

// Words of tiles that lie in lines of BESIDE numbers, of each two of which every number comes to stand beside its twin.
inline void pair_up(float*, Index) {}  // such a line is one of words
#if defined(__AVX512BF16__)
inline void pair_up(BFloat16* lines, Index tiles) {
    for (Index t = 0; t < tiles; t += 2, lines += 2 * BESIDE) {
        const Words one = __builtin_convertvector(load<Halves>(lines), Words);
        const Words other = t + 1 < tiles ? __builtin_convertvector(load<Halves>(lines + BESIDE), Words) : Words{};
        store(lines, one | other << 16);
    }
}
#endif

// The totals of some blocks.
template <int R, typename T>
void add_up(const WeightGrad& call, const Cut<T>& cut, const Share& share, Index begin, Index end, float* space,
            float* totals) {
    constexpr int P = gradient<R>.inputs;
    constexpr auto& q = gradient<R>.grads;
    const Shape& of = call.shape;
    const Images<T> images = images_of<T>(call.input, nullptr, call.channels_last, of);
    const T* grad = static_cast<const T*>(call.grad);
    const Images<T> outputs{grad, nullptr, call.channels_last, of.groups * of.K, of.P, of.Q};
    const Index row = share.row(), step = share.step();
    // Words, of which all places and steps are, from a point's to the next one's.
    const Index inputs_step = padded(share.channels, BESIDE) * STEPS + WORDS;
    const Index grads_step = padded(row, BESIDE) * STEPS + WORDS;
    float *const inputs = space, *const grads = inputs + P * P * inputs_step;
    T* const gathered = reinterpret_cast<T*>(grads + GRADS * GRADS * grads_step);
    const auto place = [](float* points, Index c) { return points + c / BESIDE * BESIDE * STEPS + c % BESIDE; };
    const auto numbers = [](float* words) { return reinterpret_cast<T*>(words); };
    __builtin_memset(totals, 0, P * P * step * sizeof(float));
    for (Index first = begin * BLOCK<T>; first < smaller(end * BLOCK<T>, cut.count); first += BLOCK<T>) {
        const Index length = smaller(BLOCK<T>, cut.count - first);
        cut.tiles.each_run(first, length, [&](Index tile, Index run, Index n, Index h, Index w) {
            all_to_points<2, BESIDE>(gradient<R>.B, images, of, n, share.group * of.C + share.c, share.channels, h, w,
                                     run, gathered, numbers(inputs) + tile * BESIDE, BESIDE * BLOCK<T>,
                                     inputs_step * PER_WORD<T>);
        });
        for (Index k = 0; k < share.filters; k += LANES) {
            cut.tiles.each_run(first, length, [&](Index tile, Index run, Index n, Index h, Index w) {
                to_points<2, BESIDE>(gradient<R>.A, outputs, n, share.group * of.K + share.k + k, share.filters - k, h,
                                     w, run, numbers(place(grads, k)) + tile * BESIDE, grads_step * PER_WORD<T>);
            });
        }
        const auto pair_all = [&](float* points, int count, Index width, Index apart) {
            for (int p = 0; p < count; ++p) {
                for (Index c = 0; c < width; c += BESIDE) pair_up(numbers(place(points + p * apart, c)), length);
            }
        };
        pair_all(inputs, P * P, share.channels, inputs_step);
        pair_all(grads, GRADS * GRADS, share.filters, grads_step);
        for (int p = 0; p < P * P; ++p) {
            float* const beside = grads + (q[p / P] * GRADS + q[p % P]) * grads_step;
            for (Index k = 0; k < share.filters; k += WIDE) {
                for (Index c = 0; c < share.channels; c += ROWS) {
                    add_products<T>(ceil_div(length, PER_WORD<T>), place(inputs + p * inputs_step, c), place(beside, k),
                                    totals + p * step + c * row + k, row);
                }
            }
        }
    }
}

// Whether the gradient of a share is finite.
template <int R, typename T>
bool finish(const WeightGrad& call, const Cut<T>& cut, const Share& share, const float* totals) {
    Floats check = {};
    for (Index k = 0; k < share.filters; k += LANES) {
        for (Index c = 0; c < share.channels; c += LANES) to_taps<R>(call, cut, share, totals, c, k, check);
    }
    return bits(check != check) == 0;
}

template <int R, typename T>
bool gradient_of(const WeightGrad& call) {
    const Cut<T> cut(call.shape, call.threads);
    const Index parts = cut.parts, numbers = cut.channels * cut.filters * cut.blocks / parts * BLOCK<T>;
    float* const totals = call.workspace + call.threads * cut.points();
    bool finite = true;
    const auto finished = [&](Index index, const float* from) {
        if (!finish<R>(call, cut, Share(cut, index), from)) __atomic_store_n(&finite, false, __ATOMIC_RELAXED);
    };
    parallel(call.threads, cut.shares() * parts, numbers, [&](Index begin, Index end) {
#if defined(_OPENMP)
        const Index thread = omp_get_thread_num();
#else
        const Index thread = 0;
#endif
        for (Index unit = begin; unit < end; ++unit) {
            const Index index = unit / parts, part = unit % parts;
            float* own = totals + (parts == 1 ? thread : unit) * cut.totals();
            add_up<R>(call, cut, Share(cut, index), cut.blocks * part / parts, cut.blocks * (part + 1) / parts,
                      call.workspace + thread * cut.points(), own);
            if (parts == 1) finished(index, own);
        }
    });
    if (parts == 1) return finite;
    parallel(call.threads, cut.shares(), parts * cut.totals(), [&](Index begin, Index end) {
        for (Index index = begin; index < end; ++index) finished(index, totals + index * parts * cut.totals());
    });
    return finite;
}

}  // namespace

template <>
Index weight_grad_workspace<Isa::ALEXKERN_ISA>(const Shape& of, int threads) {
    return on_products(of, [&](auto number) {
        const Cut<decltype(number)> cut(of, threads);
        return threads * cut.points() + (cut.parts == 1 ? threads : cut.shares() * cut.parts) * cut.totals();
    });
}

template <>
bool weight_grad<Isa::ALEXKERN_ISA>(const WeightGrad& call) {
    ran("winograd, weight's gradient, " ALEXKERN_ISA_NAME);
    return on_products(call.shape, [&](auto number) {
        using T = decltype(number);
        return call.shape.R == 3 ? gradient_of<3, T>(call) : gradient_of<5, T>(call);
    });
}

}  // namespace alexkern::winograd
