// From pixels to points: images are read here, in either memory format, a run of neighbouring tiles at a time.
#pragma once

#include "matrices.h"
#include "winograd.h"

namespace alexkern::ALEXKERN_ISA {

constexpr int CHANNELS = 16;  // of points that lie side by side
constexpr int LONGEST = 16;   // tiles of a run

// Vectors read(0), read(1), ... of the lines that are there become lanes, one beside the other.
template <typename Read>
inline void across(Index lines, const Read& read, Floats (&x)[LANES]) {
#pragma GCC unroll 16
    for (int i = 0; i < LANES; ++i) x[i] = i < lines ? read(i) : Floats{};
    transpose(x);
}

struct Images {
    const float *data, *gate;  // gate, or null: where it is <= 0 the pixel counts as 0
    bool channels_last;
    Index C, H, W;

    Index place(Index n, Index c, Index h, Index w) const {
        return channels_last ? ((n * H + h) * W + w) * C + c : ((n * C + c) * H + h) * W + w;
    }
    Floats read(Index place, Index count) const {
        const Floats value = load_some(data + place, count);
        return gate ? load_some(gate + place, count) <= Floats{} ? Floats{} : value : value;
    }
};

// Tiles of 2x2 in rows, image after image.
struct Tiles {
    Index down, across;

    Tiles(Index height, Index width) : down(ceil_div(height, 2)), across(ceil_div(width, 2)) {}

    // run(tile, count, n, row, column) for the runs of neighbours among `count` tiles from `first` on, by the place of
    // the first one's upper left corner.
    template <typename Run>
    void each_run(Index first, Index count, const Run& run) const {
        for (Index tile = first; tile < first + count;) {
            const Index column = tile % across, row = tile / across;
            const Index length = smaller(smaller(across - column, first + count - tile), LONGEST);
            run(tile - first, length, row / down, row % down * 2, column * 2);
            tile += length;
        }
    }
};

// M d M^T of each tile d in a run, whose first begins at pixel (h, w), for up to LANES channels from c on. Points of
// neighbouring tiles lie CHANNELS apart, the next point of a tile `step`.
template <int COUNT, int FROM>
__attribute__((always_inline)) inline void to_points(const double (&M)[COUNT][FROM], const Images& from, Index n,
                                                     Index c, Index channels, Index h, Index w, Index tiles,
                                                     float* points, Index step) {
    constexpr Index WIDEST = 2 * LONGEST + FROM - 2;
    const Index columns = 2 * tiles + FROM - 2;
    alignas(64) float half[WIDEST * COUNT * LANES];  // M d: its columns, which neighbours share
    const auto down = [&](const auto& pixel) {
        for (Index j = 0; j < columns; ++j) {
            Floats column[FROM], result[COUNT];
#pragma GCC unroll 8
            for (int i = 0; i < FROM; ++i) column[i] = pixel(i, j);
            multiply(M, column, result);
#pragma GCC unroll 8
            for (int i = 0; i < COUNT; ++i) store(half + (j * COUNT + i) * LANES, result[i]);
        }
    };
    const auto is_inside = [](Index at, Index size) { return at >= 0 && at < size; };
    if (from.channels_last) {
        down([&](int i, Index j) {
            const bool inside = is_inside(h + i, from.H) && is_inside(w + j, from.W);
            return inside ? from.read(from.place(n, c, h + i, w + j), channels) : Floats{};
        });
    } else {
        alignas(64) float rows[FROM][(WIDEST + LANES) * LANES];
        const Index begin = smaller(larger(-w, 0), columns), end = larger(smaller(from.W - w, columns), begin);
        for (int i = 0; i < FROM; ++i) {
            const Index last = is_inside(h + i, from.H) ? end : begin;
            for (Index j = begin; j < last; j += LANES) {
                Floats pixels[LANES];
                across(
                    channels,
                    [&](Index channel) { return from.read(from.place(n, c + channel, h + i, w + j), last - j); },
                    pixels);
#pragma GCC unroll 16
                for (int k = 0; k < LANES; ++k) store(rows[i] + (j + k) * LANES, pixels[k]);
            }
            for (Index j = 0; j < begin; ++j) store(rows[i] + j * LANES, Floats{});
            for (Index j = last; j < columns; ++j) store(rows[i] + j * LANES, Floats{});
        }
        down([&](int i, Index j) { return load<Floats>(rows[i] + j * LANES); });
    }
    for (Index t = 0; t < tiles; ++t) {
#pragma GCC unroll 8
        for (int i = 0; i < COUNT; ++i) {
            Floats row[FROM], result[COUNT];
#pragma GCC unroll 8
            for (int j = 0; j < FROM; ++j) row[j] = load<Floats>(half + ((2 * t + j) * COUNT + i) * LANES);
            multiply(M, row, result);
#pragma GCC unroll 8
            for (int j = 0; j < COUNT; ++j) store(points + (i * COUNT + j) * step + t * CHANNELS, result[j]);
        }
    }
}

}  // namespace alexkern::ALEXKERN_ISA
