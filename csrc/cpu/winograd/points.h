// From pixels to points: images are read here, in either memory format, a run of neighbouring tiles at a time. Of a
// stride above 1 pixels are gathered to blocks first.
#pragma once

#include "matrices.h"
#include "winograd.h"

namespace alexkern::ALEXKERN_ISA {

constexpr int WORDS = 16;    // of points that lie side by side: a line
constexpr int LONGEST = 16;  // tiles of a run
template <typename T>
constexpr int CHANNELS = WORDS * PER_WORD<T>;  // whose points those are
template <typename T>
constexpr int SKEW =
    CHANNELS<T>;  // numbers between two points: else all of a tile's lie in the same few sets of the L1

inline void store_point(float* to, Floats value) { store(to, value); }
#if defined(__AVX512BF16__)
inline void store_point(BFloat16* to, Floats value) { store(to, round_off(value)); }
#endif

// Vectors read(0), read(1), ... of the lines that are there become lanes, one beside the other.
template <typename Read>
inline void across(Index lines, const Read& read, Floats (&x)[LANES]) {
#pragma GCC unroll 16
    for (int i = 0; i < LANES; ++i) x[i] = i < lines ? read(i) : Floats{};
    transpose(x);
}

template <typename T>
struct Images {
    const T *data, *gate;  // gate, or null: where it is <= 0 the pixel counts as 0
    bool channels_last;
    Index C, H, W;

    Index place(Index n, Index c, Index h, Index w) const {
        return channels_last ? ((n * H + h) * W + w) * C + c : ((n * C + c) * H + h) * W + w;
    }
    void fetch(Index place) const {
        __builtin_prefetch(data + place);
        if (gate) __builtin_prefetch(gate + place);
    }
    Floats read(Index place, Index count) const {
        const Floats value = load_some(data + place, count);
        return gate ? load_some(gate + place, count) <= Floats{} ? Floats{} : value : value;
    }
};

template <typename T>
inline Images<T> images_of(const void* data, const void* gate, bool channels_last, const winograd::Shape& of) {
    const Index C = of.groups * of.C / (of.stride * of.stride);
    return {static_cast<const T*>(data), static_cast<const T*>(gate), channels_last, C, of.H, of.W};
}

// Tiles of M x M in rows, image after image.
struct Tiles {
    Index M, down, across;

    Tiles(Index height, Index width, Index M) : M(M), down(ceil_div(height, M)), across(ceil_div(width, M)) {}

    // run(tile, count, n, row, column) for the runs of neighbours among `count` tiles from `first` on, by the place of
    // the first one's upper left corner.
    template <typename Run>
    void each_run(Index first, Index count, const Run& run) const {
        for (Index tile = first; tile < first + count;) {
            const Index column = tile % across, row = tile / across;
            const Index length = smaller(smaller(across - column, first + count - tile), LONGEST);
            run(tile - first, length, row / down, row % down * M, column * M);
            tile += length;
        }
    }
};

// B d B^T of each tile d in a run, M pixels beside one another, whose first begins at pixel (h, w), for up to LANES
// channels from c on. Points of neighbouring tiles lie BESIDE apart, the next point of a tile `step`.
template <int M, int BESIDE, typename T, int COUNT, int FROM>
__attribute__((always_inline)) inline void to_points(const double (&B)[COUNT][FROM], const Images<T>& from, Index n,
                                                     Index c, Index channels, Index h, Index w, Index tiles, T* points,
                                                     Index step) {
    constexpr int SHARED = FROM - M;  // columns with the tile before
    constexpr Index WIDEST = M * LONGEST + SHARED;
    const Index columns = M * tiles + SHARED;
    const auto transform = [&](const auto& pixel) {
        Floats half[FROM][COUNT];  // B d of a tile, column after column
        const auto go_down = [&](Index from, int to) {
            Floats column[FROM];
#pragma GCC unroll 8
            for (int i = 0; i < FROM; ++i) column[i] = pixel(i, from);
            multiply(B, column, half[to]);
        };
#pragma GCC unroll 8
        for (int j = 0; j < SHARED; ++j) go_down(j, j + M);
        for (Index t = 0; t < tiles; ++t) {
#pragma GCC unroll 8
            for (int j = 0; j < SHARED; ++j) {
#pragma GCC unroll 8
                for (int i = 0; i < COUNT; ++i) half[j][i] = half[j + M][i];
            }
#pragma GCC unroll 8
            for (int j = SHARED; j < FROM; ++j) go_down(M * t + j, j);
#pragma GCC unroll 8
            for (int i = 0; i < COUNT; ++i) {
                Floats row[FROM], result[COUNT];
#pragma GCC unroll 8
                for (int j = 0; j < FROM; ++j) row[j] = half[j][i];
                multiply(B, row, result);
#pragma GCC unroll 8
                for (int j = 0; j < COUNT; ++j) store_point(points + (i * COUNT + j) * step + t * BESIDE, result[j]);
            }
        }
    };
    const auto is_inside = [](Index at, Index size) { return at >= 0 && at < size; };
    if (from.channels_last) {
        Index lines[FROM];  // where the pixels of a row begin
        bool has[FROM];
#pragma GCC unroll 8
        for (int i = 0; i < FROM; ++i) {
            lines[i] = from.place(n, c, h + i, w);
            has[i] = is_inside(h + i, from.H);
        }
        transform([&](int i, Index j) {
            if (!has[i] || !is_inside(w + j, from.W)) return Floats{};
            const Index place = lines[i] + j * from.C;
            from.fetch(place + LANES);  // the next channels: a pixel's lie side by side, which are too few to foresee
            return from.read(place, channels);
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
        transform([&](int i, Index j) { return load<Floats>(rows[i] + j * LANES); });
    }
}

// Numbers that the blocks of a run take.
inline Index gathered_size(const winograd::Shape& of) {
    return of.stride == 1 ? 0 : (of.M + of.R - 1) * (of.M * LONGEST + of.R - 1) * of.C;
}

// Blocks of stride x stride pixels in channels_last, of which the first begins at pixel (h, w), to (rows, columns,
// block).
template <typename T>
inline void gather(const Images<T>& from, Index stride, Index n, Index h, Index w, Index rows, Index columns, T* to) {
    const Index length = stride * from.C;  // of a row of a block, which lies side by side
    const auto copy = [](const T* from, Index count, T* to) {
        for (Index k = 0; k < count; k += LANES) store_some(to + k, load_some(from + k, count - k), count - k);
    };
    for (Index row = 0; row < rows * stride; ++row) {
        const bool inside = h + row >= 0 && h + row < from.H;
        const T* const pixels = from.data + (inside ? from.place(n, 0, h + row, 0) : 0);
        T* line = to + (row / stride * columns * stride + row % stride) * length;
        for (Index j = 0; j < columns;) {
            const Index x = w + j * stride, begin = larger(0, -x), end = inside ? smaller(stride, from.W - x) : 0;
            if (end - begin == stride) {
                const Index last = smaller(columns, j + (from.W - x) / stride);
                for (const T* block = pixels + x * from.C; j < last; ++j, block += length, line += stride * length) {
                    copy(block, length, line);
                }
            } else {
                for (Index k = 0; k < length; k += LANES) store_some(line + k, Floats{}, length - k);
                if (begin < end) copy(pixels + (x + begin) * from.C, (end - begin) * from.C, line + begin * from.C);
                ++j, line += stride * length;
            }
        }
    }
}

// run(T(), M, R), M and R as constants. Of bfloat16, tiles of more points would round off too much.
template <typename Run>
auto on_tiles(const winograd::Shape& of, const Run& run) {
    using Two = std::integral_constant<int, 2>;
    using Three = std::integral_constant<int, 3>;
    if constexpr (HAS_PRODUCTS_OF_BFLOAT16) {
        if (of.bfloat16) return run(BFloat16(), Two(), Three());
    }
    if (of.R == 5) return run(float(), Two(), std::integral_constant<int, 5>());
    return of.M == 2 ? run(float(), Two(), Three()) : run(float(), std::integral_constant<int, 4>(), Three());
}

// run(T()), of the numbers of a shape that this instruction set has products of.
template <typename Run>
auto on_products(const winograd::Shape& of, const Run& run) {
    if constexpr (HAS_PRODUCTS_OF_BFLOAT16) {
        if (of.bfloat16) return run(BFloat16());
    }
    return run(float());
}

// The points of all channels of a run, `channels` from c on, whose first tile begins at (row, column) of the outputs;
// BESIDE of them lie side by side, and the next ones `apart`.
template <int M, int BESIDE, typename T, int COUNT, int FROM>
__attribute__((always_inline)) inline void all_to_points(const double (&B)[COUNT][FROM], const Images<T>& images,
                                                         const winograd::Shape& of, Index n, Index c, Index channels,
                                                         Index row, Index column, Index tiles, T* gathered, T* points,
                                                         Index apart, Index step) {
    Index h = row * of.stride - of.padding_h, w = column * of.stride - of.padding_w;
    Images<T> from = images;
    if (of.stride > 1) {
        const Index columns = M * tiles + FROM - M;
        gather(images, of.stride, n, h, w, FROM, columns, gathered);
        from = {gathered, nullptr, true, of.C, FROM, columns};
        n = h = w = 0;
    }
    for (Index first = 0; first < channels; first += LANES) {
        T* to = points + first / BESIDE * apart + first % BESIDE;
        to_points<M, BESIDE>(B, from, n, c + first, channels - first, h, w, tiles, to, step);
    }
}

}  // namespace alexkern::ALEXKERN_ISA
