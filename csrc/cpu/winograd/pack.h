// The way of filters to their points, G g G^T, with filters in the lanes.
#pragma once

#include "points.h"

namespace alexkern::ALEXKERN_ISA {

// All taps of `count` channels from c on and of the filters that are there from k on, up to LANES each, to
// taps[channel][tap][filter]: a dimension whose step is 1 is read in vectors.
template <int TAPS, typename T>
inline void read_taps(const winograd::Weight& weight, const T* first, Index count, Index filters, float* taps) {
    const auto lines = [&](const T* from, Index length, Index apart, float* to) {
        for (Index i = 0; i < length; i += LANES) {
            Floats x[LANES];
            across(filters, [&](Index filter) { return load_some(from + filter * weight.filter + i, length - i); }, x);
            for (Index j = 0; j < smaller(LANES, length - i); ++j) store(to + (i + j) * apart * LANES, x[j]);
        }
    };
    if (weight.filter == 1) {
        for (Index d = 0; d < count; ++d) {
            for (Index tap = 0; tap < TAPS; ++tap) {
                const T* from = first + d * weight.channel + tap * weight.tap;
                store(taps + (d * TAPS + tap) * LANES, load_some(from, filters));
            }
        }
    } else if (weight.tap != 1) {
        for (Index tap = 0; tap < TAPS; ++tap) lines(first + tap * weight.tap, count, TAPS, taps + tap * LANES);
    } else if (weight.channel == TAPS) {
        lines(first, count * TAPS, 1, taps);
    } else {
        for (Index d = 0; d < count; ++d) lines(first + d * weight.channel, TAPS, 1, taps + d * TAPS * LANES);
    }
}

// To filter k of channel c, among a point's.
inline void store_filters(float* filters, Index c, Index k, Floats value) {
    store(filters + c * winograd::FILTERS + k, value);
}
#if defined(__AVX512BF16__)
inline void store_filters(BFloat16* filters, Index c, Index k, Floats value) {
    BFloat16* to = filters + (c / 2 * winograd::FILTERS + k) * 2;
    const Words halves = __builtin_convertvector(round_off(value), Words);
    store(to, c % 2 == 0 ? halves : load<Words>(to) | halves << 16);
}
#endif

// Numbers of a point's filters in a panel.
template <typename T>
inline Index panel_size(const winograd::Shape& of) {
    return padded(of.C, PER_WORD<T>) * winograd::FILTERS;
}

// Up to LANES filters of a panel from `lane` on, to filters[point][channel][lane].
template <int M, int R, typename T>
inline void pack_lanes(const winograd::Shape& of, const winograd::Weight& weight, Index group, Index panel, Index lane,
                       T* filters) {
    constexpr int P = M + R - 1, TAPS = R * R;
    constexpr auto& G = matrices<M, R>.G;
    const Index k = panel * winograd::FILTERS + lane;
    alignas(64) float taps[LANES * TAPS * LANES];
    for (Index c = 0; c < of.C; ++c) {
        if (c % LANES == 0) {
            const T* data = static_cast<const T*>(weight.data);
            const T* first = data + group * weight.group + k * weight.filter + c * weight.channel;
            read_taps<TAPS>(weight, first, smaller(LANES, of.C - c), of.K - k, taps);
        }
        Floats half[R][P];  // G g, column after column
        for (int s = 0; s < R; ++s) {
            Floats column[R];
            for (int r = 0; r < R; ++r) {
                const int tap = weight.flipped ? TAPS - 1 - (r * R + s) : r * R + s;
                column[r] = load<Floats>(taps + (c % LANES * TAPS + tap) * LANES);
            }
            multiply(G, column, half[s]);
        }
        for (int i = 0; i < P; ++i) {
            Floats row[R], result[P];
            for (int s = 0; s < R; ++s) row[s] = half[s][i];
            multiply(G, row, result);
            for (int j = 0; j < P; ++j) {
                store_filters(filters + (i * P + j) * panel_size<T>(of), c, lane, result[j]);
            }
        }
    }
}

}  // namespace alexkern::ALEXKERN_ISA
