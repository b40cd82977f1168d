// How a window finds its winner.
#pragma once

#include "../elements.cuh"

namespace alexkern::max_pool2d {

// The best of some positions so far, for each of kWidth channels. Values are compared as fp32, which is exact.
template <int kWidth>
struct Best {
    float value[kWidth];
    int place[kWidth];
};

// Later positions take the window where they are greater or NaN: the first of equal values keeps it, and the last NaN.
template <int kWidth>
__device__ __forceinline__ void join(Best<kWidth>& best, int channel, float value, int place) {
    if (value > best.value[channel] || value != value) {
        best.value[channel] = value;
        best.place[channel] = place;
    }
}

// A row of a 3x3 window: three pixels, `step` elements apart.
template <int kWidth, typename T>
__device__ __forceinline__ Best<kWidth> best_of_three(const T* pixels, std::int64_t step) {
    float second[kWidth], third[kWidth];
    Best<kWidth> best;
    load_vector(pixels, best.value);
    load_vector(pixels + step, second);
    load_vector(pixels + 2 * step, third);
#pragma unroll
    for (int i = 0; i < kWidth; ++i) {
        best.place[i] = 0;
        join(best, i, second[i], 1);
        join(best, i, third[i], 2);
    }
    return best;
}

// The rows below the first one.
template <int kWidth>
__device__ __forceinline__ void join_rows(Best<kWidth>& above, const Best<kWidth>& middle, const Best<kWidth>& below) {
#pragma unroll
    for (int i = 0; i < kWidth; ++i) {
        join(above, i, middle.value[i], middle.place[i] + 3);
        join(above, i, below.value[i], below.place[i] + 6);
    }
}

// What is saved behind a ReLU of a winner that it did not let pass: geometry.py's CLIPPED, which names no place.
template <typename Offset, int kWidth>
__device__ __forceinline__ void clip(Best<kWidth>& best) {
#pragma unroll
    for (int i = 0; i < kWidth; ++i) {
        if (best.value[i] <= 0.0f) best.place[i] = static_cast<Offset>(-1);
    }
}

}  // namespace alexkern::max_pool2d
