// The gradient of a 3x3 filter, G^T [sum over tiles of (B^T d B) (A dy A^T)] G for a tile's pixels d and its outputs'
// gradients dy: Winograd's F(2x2, 3x3), transposed. A thread takes some channels and some filters, as many as have
// their sums in the L2 cache, and goes through all tiles, a block at a time:
//
//   inputs  [P][P][channels / 16][block][16]   B^T d B
//   grads   [P][P][filters / 16][block][16]    A dy A^T
//   totals  [P][P][channels][filters]          += inputs x grads, summed up over TERMS tiles in registers
#if defined(_OPENMP)
#include <omp.h>
#endif

#include "../cache.h"
#include "../parallel.h"
#include "points.h"

namespace alexkern::winograd {

namespace {

using namespace ALEXKERN_ISA;

constexpr int R = 3, P = R + 1, TAPS = R * R;
constexpr int ROWS = LANES == 16 ? 8 : 4;  // channels in registers
constexpr int VECTORS = 2;                 // and vectors of filters
constexpr int WIDE = VECTORS * LANES;
constexpr int BLOCK = 32;  // tiles
constexpr int TERMS = 32;
constexpr int MOST_FILTERS = 128, LEAST_FILTERS = VECTORS * MOST_LANES;
constexpr Index LARGE_CACHE = Index(1) << 21;  // bytes, of which half hold the sums of as many channels as filters

// A and G the other way round.
struct Transposed {
    double A[P][2] = {}, G[R][P] = {};

    constexpr Transposed() {
        for (int i = 0; i < P; ++i) {
            for (int j = 0; j < 2; ++j) A[i][j] = matrices<R>.A[j][i];
            for (int j = 0; j < R; ++j) G[j][i] = matrices<R>.G[i][j];
        }
    }
};
constexpr Transposed transposed;

// A thread's share, smaller where there would not be one for each.
struct Share {
    Index channels = l2_bytes() < LARGE_CACHE ? MOST_FILTERS / 2 : MOST_FILTERS, filters = MOST_FILTERS;

    Share(const Shape& of, Index threads) {
        if (threads == 1) return;
        while (count(of) < 2 * threads && filters > LEAST_FILTERS) filters /= 2;
        while (count(of) < 2 * threads && channels > CHANNELS) channels /= 2;
    }
    Index count(const Shape& of) const { return of.groups * ceil_div(of.C, channels) * ceil_div(of.K, filters); }
};

// totals (ROWS, WIDE) += inputs (count, ROWS) transposed @ grads (count, WIDE), tile by tile.
void add_products(Index count, const float* inputs, const float* grads, float* totals, Index row) {
    for (Index first = 0; first < count; first += TERMS) {
        Floats sums[ROWS][VECTORS] = {};
        for (Index t = first; t < smaller(first + TERMS, count); ++t) {
            Floats beside[VECTORS];
            for (int j = 0; j < VECTORS; ++j) {
                const int k = j * LANES;
                beside[j] = load<Floats>(grads + k / CHANNELS * CHANNELS * BLOCK + t * CHANNELS + k % CHANNELS);
            }
#pragma GCC unroll 8
            for (int i = 0; i < ROWS; ++i) {
                const Floats input = all(inputs[t * CHANNELS + i]);
                for (int j = 0; j < VECTORS; ++j) sums[i][j] += input * beside[j];
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

// Totals of up to LANES channels from c on, and of the filters from k on that are there, to the gradient itself.
void to_taps(const WeightGrad& call, const float* totals, Index step, Index row, Index k, Index filters, Index c,
             Index channels, Floats& check) {
    const Index C = call.shape.C;
    alignas(64) float taps[LANES * TAPS * LANES];  // a channel's taps side by side, or a tap's channels
    for (Index d = 0; d < channels; ++d) {
        Floats half[R][P];  // G^T totals
        for (int j = 0; j < P; ++j) {
            Floats column[P], result[R];
            for (int i = 0; i < P; ++i) column[i] = load<Floats>(totals + (i * P + j) * step + d * row);
            multiply(transposed.G, column, result);
            for (int r = 0; r < R; ++r) half[r][j] = result[r];
        }
        for (int r = 0; r < R; ++r) {
            Floats result[R];
            multiply(transposed.G, half[r], result);
            for (int s = 0; s < R; ++s) {
                check += result[s] * 0.0f;
                const Index tap = r * R + s;
                store(taps + (call.channels_last ? tap * channels + d : d * TAPS + tap) * LANES, result[s]);
            }
        }
    }
    const auto write = [&](const float* from, Index length, float* to) {
        for (Index m = 0; m < length; m += LANES) {
            Floats x[LANES];
            across(length - m, [&](Index i) { return load<Floats>(from + (m + i) * LANES); }, x);
            for (Index f = 0; f < smaller(LANES, filters); ++f) store_some(to + f * C * TAPS + m, x[f], length - m);
        }
    };
    float* to = call.weight_grad + k * C * TAPS;
    if (call.channels_last) {
        for (Index tap = 0; tap < TAPS; ++tap) write(taps + tap * channels * LANES, channels, to + tap * C + c);
    } else {
        write(taps, channels * TAPS, to + c * TAPS);
    }
}

// Whether the gradient for some channels and filters of a group is finite.
bool take_share(const WeightGrad& call, Index group, Index c0, Index channels, Index k0, Index filters, float* space) {
    const Shape& of = call.shape;
    const Images images = images_of(call.input, nullptr, call.channels_last, of);
    const Images outputs{call.grad, nullptr, call.channels_last, of.groups * of.K, of.P, of.Q};
    const Tiles tiles(of.P, of.Q);
    const Index count = of.N * tiles.down * tiles.across, row = padded(filters, WIDE);
    const Index inputs_step = padded(channels, CHANNELS) * BLOCK, grads_step = padded(row, CHANNELS) * BLOCK;
    const Index step = padded(channels, ROWS) * row;
    float *totals = space, *inputs = totals + P * P * step, *grads = inputs + P * P * inputs_step;
    float* gathered = grads + P * P * grads_step;
    __builtin_memset(totals, 0, P * P * step * sizeof(float));
    for (Index first = 0; first < count; first += BLOCK) {
        const Index length = smaller(BLOCK, count - first);
        const auto place = [](float* points, Index c) {
            return points + c / CHANNELS * CHANNELS * BLOCK + c % CHANNELS;
        };
        tiles.each_run(first, length, [&](Index tile, Index run, Index n, Index h, Index w) {
            all_to_points(matrices<R>.B, images, of, n, group * of.C + c0, channels, h, w, run, gathered,
                          inputs + tile * CHANNELS, CHANNELS * BLOCK, inputs_step);
        });
        for (Index k = 0; k < filters; k += LANES) {
            tiles.each_run(first, length, [&](Index tile, Index run, Index n, Index h, Index w) {
                to_points(transposed.A, outputs, n, group * of.K + k0 + k, filters - k, h, w, run,
                          place(grads, k) + tile * CHANNELS, grads_step);
            });
        }
        for (int p = 0; p < P * P; ++p) {
            for (Index k = 0; k < filters; k += WIDE) {
                for (Index c = 0; c < channels; c += ROWS) {
                    add_products(length, place(inputs + p * inputs_step, c), place(grads + p * grads_step, k),
                                 totals + p * step + c * row + k, row);
                }
            }
        }
    }
    Floats check = {};
    for (Index k = 0; k < filters; k += LANES) {
        for (Index c = 0; c < channels; c += LANES) {
            to_taps(call, totals + c * row + k, step, row, group * of.K + k0 + k, filters - k, c0 + c,
                    smaller(LANES, channels - c), check);
        }
    }
    return bits(check != check) == 0;
}

}  // namespace

template <>
Index weight_grad_workspace<Isa::ALEXKERN_ISA>(const Shape& of, int threads) {
    const Share share(of, threads);
    return P * P * (share.channels * share.filters + (share.channels + share.filters) * BLOCK) + gathered_size(of);
}

template <>
bool weight_grad<Isa::ALEXKERN_ISA>(const WeightGrad& call) {
    ran("winograd, weight's gradient, " ALEXKERN_ISA_NAME);
    const Shape& of = call.shape;
    const Share share(of, call.threads);
    const Index across_k = ceil_div(of.K, share.filters), across_c = ceil_div(of.C, share.channels);
    const Index size = weight_grad_workspace<Isa::ALEXKERN_ISA>(of, call.threads);
    const Index numbers = share.channels * share.filters * of.N * of.P * of.Q;
    bool finite = true;
    parallel(call.threads, share.count(of), numbers, [&](Index begin, Index end) {
#if defined(_OPENMP)
        float* own = call.workspace + omp_get_thread_num() * size;
#else
        float* own = call.workspace;
#endif
        for (Index unit = begin; unit < end; ++unit) {
            const Index k = unit % across_k * share.filters, c = unit / across_k % across_c * share.channels;
            if (!take_share(call, unit / across_k / across_c, c, smaller(share.channels, of.C - c), k,
                            smaller(share.filters, of.K - k), own)) {
                __atomic_store_n(&finite, false, __ATOMIC_RELAXED);
            }
        }
    });
    return finite;
}

}  // namespace alexkern::winograd
