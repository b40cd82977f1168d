// NHWC: channels lie in the lanes, a window after the other; the backward gathers, each pixel from the windows that it
// stands in. NCHW: neighbouring windows of a row lie in the lanes. A window's column s of all windows of a row is every
// stride_w-th pixel of an image row: rows are taken apart into these, with -inf beside the image, and kept while
// windows of the rows below read them. There the backward scatters, plane by plane.
//
// Windows are reduced in the order of their pixels, and gradients of a pixel added up in that of the windows: torch's.
// There a NaN wins, which takes a second comparison for every pixel. In NHWC it is left out, and a sum of the pixels
// says whether to reduce the window once more, with it.
#include "max_pool2d.h"

#include "../parallel.h"
#include "../simd.h"

#if defined(_OPENMP)
#include <omp.h>
#endif

namespace alexkern::max_pool2d {

namespace {

using namespace ALEXKERN_ISA;

// The positions [first, end) of a window that lie in the image: `origin` is the window's first pixel.
struct Inside {
    Index first, end;
    Inside(Index origin, Index length, Index count, Index dilation)
        : first(origin < 0 ? ceil_div(-origin, dilation) : 0),
          end(origin < length ? smaller(count, ceil_div(length - origin, dilation)) : 0) {}
};

// What a ReLU lets pass, NaN and -0.0 among it.
template <bool RELU>
inline float pass(float value) {
    return RELU && value < 0 ? 0 : value;
}

template <bool RELU>
inline Floats pass(Floats value) {
    return RELU ? larger(Floats{}, value) : value;
}

struct Best {
    Floats value;
    Ints offset;
};

// In place of the offset of a winner that the ReLU did not let pass: what names no pixel of a window.
template <typename Offset>
constexpr std::int32_t CLIPPED = sizeof(Offset) == 1 ? 255 : -1;

// As torch has it: of equal values the first wins, of NaNs the last.
inline void meet(Best& best, Floats value, std::int32_t offset) {
    const Ints wins = (value > best.value) | (value != value);
    best.value = wins ? value : best.value;
    best.offset = wins ? all(offset) : best.offset;
}

template <typename T, typename Vector>
inline void store_first(T* to, const Vector& values, int count) {
    if (count == LANES) {
        store(to, values);
    } else {
        store_part(to, values, count);
    }
}

template <bool RELU, typename Offset>
inline void store_offsets(void* offsets, Index at, const Best& best, int count) {
    Offset* to = static_cast<Offset*>(offsets) + at;
    const Ints values = RELU ? (best.value <= Floats{} ? all(CLIPPED<Offset>) : best.offset) : best.offset;
    if constexpr (sizeof(Offset) == 1) {
        store_first(to, narrow(values), count);
    } else {
        store_first(to, values, count);
    }
}

inline Ints load_offsets(const std::uint8_t* from) { return widen(load<Bytes>(from)); }
inline Ints load_offsets(const std::int32_t* from) { return load<Ints>(from); }
inline Ints load_offsets(const std::uint8_t* from, int count) { return widen(load_part(from, count)); }
inline Ints load_offsets(const std::int32_t* from, int count) { return load_part(from, count); }

// The pixels of a window that lie in the image, where they are from its first pixel on: none where they are too many.
struct Pixels {
    static constexpr Index MOST = 64;
    int count = 0;
    Index from[MOST];
    std::int32_t offset[MOST];
    void list(const Windows& at, const Inside& r, const Inside& s) {
        count = 0;
        if ((r.end - r.first) * (s.end - s.first) > MOST) return;
        for (Index i = r.first; i < r.end; ++i) {
            for (Index j = s.first; j < s.end; ++j) {
                from[count] = (i * at.dilation_h * at.W + j * at.dilation_w) * at.C;
                offset[count++] = static_cast<std::int32_t>(i * at.S + j);
            }
        }
    }
};

// Best as `meet` would find it, if none of the pixels is NaN: false where one may be, as where both infinities are.
template <typename T, bool RELU, int BLOCKS>
inline bool reduce_ordered(const Pixels& pixels, const T* image, Index window, int part, Best (&best)[BLOCKS]) {
    const auto read = [&](int pixel, int b) {
        const T* from = image + (window + pixels.from[pixel] + b * LANES);
        return in_register(pass<RELU>(part == LANES ? load(from) : load_part(from, part)));
    };
    Floats sums[BLOCKS];
    for (int b = 0; b < BLOCKS; ++b) best[b] = {sums[b] = read(0, b), all(pixels.offset[0])};
    for (int pixel = 1; pixel < pixels.count; ++pixel) {
        const Ints offset = in_register(all(pixels.offset[pixel]));
        for (int b = 0; b < BLOCKS; ++b) {
            const Floats value = read(pixel, b);
            best[b].offset = value > best[b].value ? offset : best[b].offset;
            best[b].value = larger(value, best[b].value);
            sums[b] += value;
        }
    }
    for (int b = 1; b < BLOCKS; ++b) sums[0] += sums[b];
    return !has_nan(sums[0]);
}

template <typename T, bool RELU, typename Offset, int BLOCKS>
inline void put(const Forward& call, Index to, int part, const Best (&best)[BLOCKS]) {
    for (int b = 0; b < BLOCKS; ++b) {
        store_first(static_cast<T*>(call.output) + to + b * LANES, best[b].value, part);
        if (call.offsets) store_offsets<RELU, Offset>(call.offsets, to + b * LANES, best[b], part);
    }
}

// As torch finds it, with any pixels.
template <typename T, bool RELU, int BLOCKS, typename Offset>
[[gnu::noinline]] void reduce_any(const Forward& call, const T* image, Index h, Index w, const Inside& r,
                                  const Inside& s, Index to, int part) {
    const Windows& at = call.windows;
    // torch starts from the first pixel inside, and no pixel of -inf wins over it.
    const Ints first = all(static_cast<std::int32_t>(s.first < s.end ? r.first * at.S + s.first : 0));
    Best best[BLOCKS];
    for (int b = 0; b < BLOCKS; ++b) best[b] = {all(-__builtin_inff()), first};
    for (Index i = r.first; i < r.end; ++i) {
        const T* row = image + ((h + i * at.dilation_h) * at.W + w) * at.C;
        for (Index j = s.first; j < s.end; ++j) {
            const T* pixel = row + j * at.dilation_w * at.C;
            for (int b = 0; b < BLOCKS; ++b) {
                const Floats value = part == LANES ? load(pixel + b * LANES) : load_part(pixel, part);
                meet(best[b], pass<RELU>(value), static_cast<std::int32_t>(i * at.S + j));
            }
        }
    }
    put<T, RELU, Offset>(call, to, part, best);
}

// One window, in BLOCKS * LANES channels, or in the first `part` of LANES.
template <typename T, bool RELU, int BLOCKS, typename Offset>
inline void reduce(const Forward& call, const Pixels& pixels, const T* image, Index h, Index w, const Inside& r,
                   const Inside& s, Index to, int part) {
    Best best[BLOCKS];
    if (pixels.count > 0 &&
        reduce_ordered<T, RELU>(pixels, image, (h * call.windows.W + w) * call.windows.C, part, best)) {
        put<T, RELU, Offset>(call, to, part, best);
    } else {
        reduce_any<T, RELU, BLOCKS, Offset>(call, image, h, w, r, s, to, part);
    }
}

template <typename T, bool RELU, typename Offset>
void forward_nhwc(const Forward& call) {
    const Windows& at = call.windows;
    parallel(call.threads, at.N * at.P, at.Q * at.C * smaller(at.R * at.S, 16), [&](Index begin, Index end) {
        for (Index unit = begin; unit < end; ++unit) {
            const Index h = unit % at.P * at.stride_h - at.padding_h;
            const Inside r(h, at.H, at.R, at.dilation_h);
            const T* image = static_cast<const T*>(call.input) + unit / at.P * at.H * at.W * at.C;
            Pixels pixels;
            Inside listed(0, 0, 0, 1);
            for (Index q = 0; q < at.Q; ++q) {
                const Index w = q * at.stride_w - at.padding_w, to = (unit * at.Q + q) * at.C;
                const Inside s(w, at.W, at.S, at.dilation_w);
                if (s.first != listed.first || s.end != listed.end) pixels.list(at, r, listed = s);
                Index c = 0;
                for (; c + 4 * LANES <= at.C; c += 4 * LANES) {
                    reduce<T, RELU, 4, Offset>(call, pixels, image + c, h, w, r, s, to + c, LANES);
                }
                for (; c + LANES <= at.C; c += LANES) {
                    reduce<T, RELU, 1, Offset>(call, pixels, image + c, h, w, r, s, to + c, LANES);
                }
                if (c < at.C) {
                    reduce<T, RELU, 1, Offset>(call, pixels, image + c, h, w, r, s, to + c, static_cast<int>(at.C - c));
                }
            }
        }
    });
}

// How image rows are taken apart: `residues` arrays of `length` for each of the rows that one row of windows spans.
struct Parts {
    Index rows, residues, length, windows;
    explicit Parts(const Windows& at)
        : rows(at.dilation_h * (at.R - 1) + 1),
          residues(smaller(at.stride_w, at.dilation_w * (at.S - 1) + 1)),
          length(at.Q + at.dilation_w * (at.S - 1) / at.stride_w + MOST_LANES),
          windows(at.Q + MOST_LANES) {}
    Index size() const { return rows * residues * length + windows; }
};

template <typename T, bool RELU, typename Offset>
void forward_nchw(const Forward& call) {
    const Windows& at = call.windows;
    const Parts parts(at);
    parallel(call.threads, at.N * at.C * at.P, at.Q * smaller(at.R * at.S, 16), [&](Index begin, Index end) {
#if defined(_OPENMP)
        float* space = call.workspace + omp_get_thread_num() * parts.size();
#else
        float* space = call.workspace;
#endif
        // The first position inside of every window of a row, where torch starts from.
        std::int32_t* first = reinterpret_cast<std::int32_t*>(space + parts.rows * parts.residues * parts.length);
        for (Index q = 0; q < parts.windows; ++q) {
            const Inside s(q * at.stride_w - at.padding_w, at.W, at.S, at.dilation_w);
            first[q] = s.first < s.end ? static_cast<std::int32_t>(s.first) : -1;
        }
        Index plane = -1, next = 0;  // rows before `next` of this plane are there
        for (Index unit = begin; unit < end; ++unit) {
            if (unit / at.P != plane) {
                plane = unit / at.P;
                next = 0;
            }
            const Index h = unit % at.P * at.stride_h - at.padding_h;
            const Inside r(h, at.H, at.R, at.dilation_h);
            const Index last = h + (r.end - 1) * at.dilation_h;
            for (next = larger(next, larger(h, 0)); next <= last; ++next) {
                const T* from = static_cast<const T*>(call.input) + (plane * at.H + next) * at.W;
                for (Index residue = 0; residue < parts.residues; ++residue) {
                    float* to = space + (next % parts.rows * parts.residues + residue) * parts.length;
                    const Index shift = residue - at.padding_w;
                    const Index low = shift < 0 ? smaller(ceil_div(-shift, at.stride_w), parts.length) : 0;
                    const Index high =
                        shift < at.W ? larger(low, smaller(ceil_div(at.W - shift, at.stride_w), parts.length)) : low;
                    for (Index j = 0; j < low; ++j) to[j] = -__builtin_inff();
                    if (at.stride_w == 2) {
                        for (Index j = low; j < high; ++j) to[j] = pass<RELU>(widen(from[2 * j + shift]));
                    } else {
                        for (Index j = low; j < high; ++j) to[j] = pass<RELU>(widen(from[j * at.stride_w + shift]));
                    }
                    for (Index j = high; j < parts.length; ++j) to[j] = -__builtin_inff();
                }
            }
            for (Index q = 0; q < at.Q; q += LANES) {
                const Ints column = load<Ints>(first + q);
                Best best{all(-__builtin_inff()),
                          column < 0 ? Ints{} : column + static_cast<std::int32_t>(r.first * at.S)};
                for (Index i = r.first; i < r.end; ++i) {
                    const Index row = (h + i * at.dilation_h) % parts.rows;
                    for (Index j = 0; j < at.S; ++j) {
                        const Index residue = j * at.dilation_w % at.stride_w, shift = j * at.dilation_w / at.stride_w;
                        const float* pixels = space + (row * parts.residues + residue) * parts.length + shift + q;
                        meet(best, load<Floats>(pixels), static_cast<std::int32_t>(i * at.S + j));
                    }
                }
                const int count = static_cast<int>(smaller(LANES, at.Q - q));
                store_first(static_cast<T*>(call.output) + unit * at.Q + q, best.value, count);
                if (call.offsets) store_offsets<RELU, Offset>(call.offsets, unit * at.Q + q, best, count);
            }
        }
    });
}

template <typename T, bool RELU>
void forward_all(const Forward& call) {
    if (call.channels_last) {
        call.wide_offsets ? forward_nhwc<T, RELU, std::int32_t>(call) : forward_nhwc<T, RELU, std::uint8_t>(call);
    } else {
        call.wide_offsets ? forward_nchw<T, RELU, std::int32_t>(call) : forward_nchw<T, RELU, std::uint8_t>(call);
    }
}

// The windows [first, last] that reach over a pixel along one axis, those beyond the image's sides among them.
struct Over {
    Index first, last;
    Over(Index pixel, Index stride, Index reach)  // pixel: counted from the padding on
        : first(pixel < reach ? -((reach - pixel) / stride) : ceil_div(pixel - reach, stride)), last(pixel / stride) {}
};

// The windows that one pixel stands in: where each begins among the gradients, and the offset that names the pixel.
struct Sources {
    static constexpr int MOST = 64;
    int count;
    Index from[MOST];
    std::int32_t own[MOST];
};

// Pixels of a row, stride_w apart, that stand in as many windows, each one window further than the pixel before.
struct Run {
    Index pixels, step;  // numbers from one's sums to the next one's
    bool first;          // nothing is in the sums yet
};

// Where the winners are `own`, of BLOCKS * LANES channels or the first `part` of LANES.
template <int BLOCKS, typename Offset>
inline void find_own(const Offset* offsets, std::int32_t own, int part, Lanes (&found)[BLOCKS]) {
    if constexpr (BLOCKS == 4 && sizeof(Offset) == 1) {
        find(offsets, own, found);
    } else {
        for (int b = 0; b < BLOCKS; ++b) {
            found[b] = find(part == LANES ? load_offsets(offsets + b * LANES) : load_offsets(offsets, part), own);
        }
    }
}

// Adds what BLOCKS * LANES channels of a pixel get, or the first `part` of LANES, to `sum`. COUNT: of sources, where
// the compiler knows it; otherwise 0.
template <int BLOCKS, int COUNT, typename T, typename Offset>
inline void gather(const Sources& sources, const T* grad, const Offset* offsets, T* sum, bool first, int part) {
    const bool whole = part == LANES;
    const int count = COUNT ? COUNT : sources.count;
    Floats sums[BLOCKS];
    for (int b = 0; b < BLOCKS; ++b) {
        sums[b] = first ? Floats{} : whole ? load(sum + b * LANES) : load_part(sum, part);
    }
    for (int i = 0; i < count; ++i) {
        const Index from = sources.from[i];
        Lanes own[BLOCKS];
        find_own(offsets + from, sources.own[i], part, own);
        for (int b = 0; b < BLOCKS; ++b) {
            const Index at = from + b * LANES;
            sums[b] = add_in<T>(own[b], sums[b], whole ? load(grad + at) : load_part(grad + at, part));
        }
    }
    for (int b = 0; b < BLOCKS; ++b) {
        if (whole) {
            store(sum + b * LANES, sums[b]);
        } else {
            store_part(sum, sums[b], part);
        }
    }
}

template <int COUNT, typename T, typename Offset>
void gather_run(const Sources& sources, const Run& run, Index C, const T* grad, const Offset* offsets, T* sum) {
    for (Index pixel = 0; pixel < run.pixels; ++pixel, grad += C, offsets += C, sum += run.step) {
        Index c = 0;
        for (; c + 4 * LANES <= C; c += 4 * LANES) {
            gather<4, COUNT>(sources, grad + c, offsets + c, sum + c, run.first, LANES);
        }
        for (; c + LANES <= C; c += LANES) {
            gather<1, COUNT>(sources, grad + c, offsets + c, sum + c, run.first, LANES);
        }
        if (c < C) gather<1, COUNT>(sources, grad + c, offsets + c, sum + c, run.first, static_cast<int>(C - c));
    }
}

// Windows of 3x3 at stride 2, and all at strides of their size or half of it, have these counts. One that the loop asks
// for anew at every pixel costs more than the additions.
template <typename T, typename Offset>
void gather_all(const Sources& sources, const Run& run, Index C, const T* grad, const Offset* offsets, T* sum) {
    switch (sources.count) {
        case 1:
            return gather_run<1>(sources, run, C, grad, offsets, sum);
        case 2:
            return gather_run<2>(sources, run, C, grad, offsets, sum);
        case 4:
            return gather_run<4>(sources, run, C, grad, offsets, sum);
        default:
            return gather_run<0>(sources, run, C, grad, offsets, sum);
    }
}

template <typename T, typename Offset>
void backward_nhwc(const Backward& call, const Offset* offsets) {
    const Windows& at = call.windows;
    const T* grad = static_cast<const T*>(call.grad);
    const Index reach_h = at.dilation_h * (at.R - 1), reach_w = at.dilation_w * (at.S - 1);
    parallel(call.threads, at.N * at.H, at.W * at.C, [&](Index begin, Index end) {
        Sources sources;
        for (Index unit = begin; unit < end; ++unit) {
            const Index n = unit / at.H, h = unit % at.H + at.padding_h;
            const Over p(h, at.stride_h, reach_h);
            T* row = static_cast<T*>(call.input_grad) + unit * at.W * at.C;
            for (Index residue = 0; residue < smaller(at.stride_w, at.W); ++residue) {
                Run run;
                for (Index column = residue; column < at.W; column += run.pixels * at.stride_w) {
                    T* sum = row + column * at.C;
                    const Index w = column + at.padding_w;
                    const Over q(w, at.stride_w, reach_w);
                    run = {1, at.stride_w * at.C, true};
                    sources.count = 0;
                    for (Index i = larger(p.first, 0); i <= p.last && i < at.P; ++i) {
                        const Index down = h - i * at.stride_h, r = down / at.dilation_h;
                        if (r * at.dilation_h != down) continue;
                        for (Index j = larger(q.first, 0); j <= q.last && j < at.Q; ++j) {
                            const Index across = w - j * at.stride_w, s = across / at.dilation_w;
                            if (s * at.dilation_w != across) continue;
                            if (sources.count == Sources::MOST) {
                                gather_all(sources, run, at.C, grad, offsets, sum);
                                run.first = false;
                                sources.count = 0;
                            }
                            sources.from[sources.count] = ((n * at.P + i) * at.Q + j) * at.C;
                            sources.own[sources.count++] = static_cast<std::int32_t>(r * at.S + s);
                        }
                    }
                    // None is missing: so it is until a window is beyond the last.
                    if (run.first && q.first >= 0 && q.last < at.Q) {
                        run.pixels += smaller(at.Q - 1 - q.last, (at.W - 1 - column) / at.stride_w);
                    }
                    gather_all(sources, run, at.C, grad, offsets, sum);
                }
            }
        }
    });
}

// The pixel of an offset, from its window's first; beyond the image where it is none of the window's.
struct Pixel {
    Index h, w;
    Pixel(const Windows& at, std::uint32_t offset)
        : h(offset < at.R * at.S ? offset / at.S * at.dilation_h : at.H + at.padding_h + at.P * at.stride_h),
          w(offset % at.S * at.dilation_w) {}
    Pixel() = default;
};

template <typename T, typename Offset>
void backward_nchw(const Backward& call, const Offset* offsets) {
    const Windows& at = call.windows;
    const Index area = at.H * at.W;
    const T* grads = static_cast<const T*>(call.grad);
    T* input_grad = static_cast<T*>(call.input_grad);
    Pixel pixels[256];  // of bytes
    Index steps[256];   // the same in a flat image, and 0 for what names no pixel
    for (std::uint32_t offset = 0; offset < 256; ++offset) {
        pixels[offset] = Pixel(at, offset);
        steps[offset] = offset < at.R * at.S ? pixels[offset].h * at.W + pixels[offset].w : 0;
    }
    // Windows from `low` to `high` lie between the sides of the image.
    const Index reach_h = at.dilation_h * (at.R - 1), spare = at.W - 1 - at.dilation_w * (at.S - 1) + at.padding_w;
    const Index low = smaller(ceil_div(at.padding_w, at.stride_w), at.Q);
    const Index high = larger(low, spare < 0 ? 0 : smaller(spare / at.stride_w + 1, at.Q));
    parallel(call.threads, at.N * at.C, area, [&](Index begin, Index end) {
        for (Index plane = begin; plane < end; ++plane) {
            float* gradient;  // sums are those of float32
            if constexpr (sizeof(T) == sizeof(float)) {
                gradient = input_grad + plane * area;
            } else {
#if defined(_OPENMP)
                gradient = call.workspace + omp_get_thread_num() * area;
#else
                gradient = call.workspace;
#endif
            }
            __builtin_memset(gradient, 0, area * sizeof(float));
            for (Index p = 0; p < at.P; ++p) {
                const Index top = p * at.stride_h - at.padding_h, row = (plane * at.P + p) * at.Q;
                const auto scatter = [&](Index first, Index last) {
                    for (Index q = first; q < last; ++q) {
                        const auto offset = static_cast<std::uint32_t>(offsets[row + q]);
                        const Pixel pixel = sizeof(Offset) == 1 ? pixels[offset & 255] : Pixel(at, offset);
                        const Index h = top + pixel.h, w = q * at.stride_w - at.padding_w + pixel.w;
                        if (h >= 0 && h < at.H && w >= 0 && w < at.W) gradient[h * at.W + w] += widen(grads[row + q]);
                    }
                };
                if (sizeof(Offset) > 1 || top < 0 || top + reach_h >= at.H) {
                    scatter(0, at.Q);
                    continue;
                }
                scatter(0, low);
                for (Index q = low; q < high; ++q) {
                    const auto offset = static_cast<std::uint32_t>(offsets[row + q]) & 255;
                    const float grad = offset < at.R * at.S ? widen(grads[row + q]) : 0;
                    gradient[top * at.W + q * at.stride_w - at.padding_w + steps[offset]] += grad;
                }
                scatter(high, at.Q);
            }
            if constexpr (sizeof(T) < sizeof(float)) {
                for (Index i = 0; i < area; i += LANES) {
                    store_some(input_grad + plane * area + i, load_some(gradient + i, area - i), area - i);
                }
            }
        }
    });
}

}  // namespace

template <>
std::int64_t workspace<Isa::ALEXKERN_ISA>(const Windows& windows) {
    return Parts(windows).size();
}

template <>
void forward<Isa::ALEXKERN_ISA>(const Forward& call) {
    ran(call.channels_last ? "max_pool2d forward, NHWC, " ALEXKERN_ISA_NAME
                           : "max_pool2d forward, NCHW, " ALEXKERN_ISA_NAME);
    on_numbers(call.bfloat16, [&](auto number) {
        using T = decltype(number);
        call.relu ? forward_all<T, true>(call) : forward_all<T, false>(call);
    });
}

template <>
void backward<Isa::ALEXKERN_ISA>(const Backward& call) {
    ran(call.channels_last ? "max_pool2d backward, NHWC, " ALEXKERN_ISA_NAME
                           : "max_pool2d backward, NCHW, " ALEXKERN_ISA_NAME);
    const auto* bytes = static_cast<const std::uint8_t*>(call.offsets);
    const auto* words = static_cast<const std::int32_t*>(call.offsets);
    on_numbers(call.bfloat16, [&](auto number) {
        using T = decltype(number);
        if (call.channels_last) {
            call.wide_offsets ? backward_nhwc<T>(call, words) : backward_nhwc<T>(call, bytes);
        } else {
            call.wide_offsets ? backward_nchw<T>(call, words) : backward_nchw<T>(call, bytes);
        }
    });
}

}  // namespace alexkern::max_pool2d
