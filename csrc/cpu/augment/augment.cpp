// A row of the output at a time: the rows of bytes that it is made of are added up first, as wide as vectors are, then
// each of its pixels is added up from that row's pixels, red, green and blue in one register. So the image is read
// once, stays bytes until it is added up, and what lies between is one row.
#include "augment.h"

#include "../parallel.h"
#include "../simd.h"

#if defined(_OPENMP)
#include <omp.h>
#endif

namespace alexkern::augment {

namespace {

using namespace ALEXKERN_ISA;

typedef float Pixel __attribute__((vector_size(16)));  // red, green, blue, and what comes behind

// How a line of `size` pixels is resized to `count`: as torch does it with antialias=True.
struct Axis {
    Index size;
    double step, reach;
    Index taps;  // of each output pixel; those beyond its triangle weigh nothing

    Axis(Index size, Index count) : size(size), step(double(size) / count), reach(step > 1 ? step : 1) {
        taps = smaller(size, static_cast<Index>(2 * reach) + 2);
    }

    // The weights of one output pixel, and the first source pixel that they are for.
    Index fill(Index output, float* weights) const {
        const double centre = step * (output + 0.5);
        const Index low = larger(0, static_cast<Index>(centre - reach + 0.5));
        const Index high = smaller(size, static_cast<Index>(centre + reach + 0.5));
        const Index first = smaller(low, size - taps);
        double sum = 0;
        for (Index j = low; j < high; ++j) sum += weight(j, centre);
        for (Index tap = 0; tap < taps; ++tap) weights[tap] = static_cast<float>(weight(first + tap, centre) / sum);
        return first;
    }

    double weight(Index j, double centre) const {
        const double away = (j + 0.5 - centre) / reach;
        return away < -1 || away > 1 ? 0 : away < 0 ? 1 + away : 1 - away;
    }
};

// A thread's workspace: for each column its first source pixel and its weights, the weights of a row, a row.
struct Space {
    Index columns, rows, line;

    explicit Space(const Call& call) {
        columns = call.Q + 2 * larger(call.Q, call.W) + 2 * call.Q;
        rows = 2 * larger(call.P, call.H) + 2;
        line = 3 * call.W + 4 + MOST_LANES;  // a pixel is read as four numbers
    }

    Index size() const { return columns + rows + line; }
};

inline void add_rows(const std::uint8_t* from, Index stride, const float* weights, Index taps, Index count, float* to) {
    for (Index x = 0; x < count; x += LANES) {
        const int part = static_cast<int>(smaller(LANES, count - x));
        Floats sum = {};
        for (Index tap = 0; tap < taps; ++tap) {
            const std::uint8_t* at = from + tap * stride + x;
            const Bytes bytes = part == LANES ? load<Bytes>(at) : load_part(at, part);
            sum += all(weights[tap]) * __builtin_convertvector(widen(bytes), Floats);
        }
        store(to + x, sum);
    }
    store(to + count, Pixel{});
}

inline void add_columns(const Call& call, const Part& part, const float* line, const std::int32_t* first,
                        const float* weights, Index taps, float* to) {
    const Pixel scale = {call.scale[0], call.scale[1], call.scale[2], 0};
    const Pixel shift = {call.shift[0], call.shift[1], call.shift[2], 0};
    for (Index q = 0; q < call.Q; ++q) {
        const Index at = part.flip ? call.Q - 1 - q : q;
        if (at >= call.shown_q) continue;
        Pixel sum = {};
        for (Index tap = 0; tap < taps; ++tap) {
            sum += (weights[q * taps + tap] - Pixel{}) * load<Pixel>(line + 3 * (first[q] + tap));
        }
        sum = sum * scale + shift;
        __builtin_memcpy(to + 3 * at, &sum, 3 * sizeof(float));
    }
}

}  // namespace

template <>
std::int64_t workspace<Isa::ALEXKERN_ISA>(const Call& call) {
    return Space(call).size();
}

template <>
void run<Isa::ALEXKERN_ISA>(const Call& call) {
    ran("augment, " ALEXKERN_ISA_NAME);
    const Space space(call);
    parallel(call.threads, call.N * call.shown_p, 12 * call.Q, [&](Index begin, Index end) {
#if defined(_OPENMP)
        float* own = call.workspace + omp_get_thread_num() * space.size();
#else
        float* own = call.workspace;
#endif
        auto* first = reinterpret_cast<std::int32_t*>(own);
        float *weights = own + call.Q, *row_weights = own + space.columns, *line = row_weights + space.rows;
        Index prepared = -1;
        for (Index unit = begin; unit < end; ++unit) {
            const Index n = unit / call.shown_p, p = unit % call.shown_p;
            const Part& part = call.parts[n];
            const Axis across(part.right - part.left, part.columns), down(part.bottom - part.top, part.rows);
            if (n != prepared) {
                for (Index q = 0; q < call.Q; ++q) {
                    first[q] = static_cast<std::int32_t>(across.fill(part.column + q, weights + q * across.taps));
                }
                prepared = n;
            }
            // Of the window's columns only those that are shown.
            const Index start = first[0], stop = first[call.Q - 1] + across.taps;
            const Index top = part.top + down.fill(part.row + p, row_weights);
            const std::uint8_t* from = call.images + ((n * call.H + top) * call.W + part.left + start) * 3;
            add_rows(from, 3 * call.W, row_weights, down.taps, 3 * (stop - start), line);
            add_columns(call, part, line - 3 * start, first, weights, across.taps,
                        call.output + n * call.stride_n + p * call.stride_p);
        }
    });
}

}  // namespace alexkern::augment
