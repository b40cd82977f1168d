// Which pixel and channels a thread has, and the accesses of kWidth neighbouring channels.
#pragma once

#include "../divider.h"
#include "../elements.cuh"
#include "max_pool2d.h"

namespace alexkern::max_pool2d {

constexpr int kThreads = 256;

// A thread's kWidth channels of one pixel, or of the first of several below each other.
struct ThreadPixel {
    int n, c, row, column;
    bool inside;
};

// The order of threads is that of the memory: channels, columns, rows, images where channels lie innermost, else
// columns, rows, channels, images.
struct Order {
    bool channels_inner;
    std::int64_t count;  // threads with work
    Divider inner, middle, outer;

    Order(int N, int channel_groups, int rows, int columns, bool channels_inner)
        : channels_inner(channels_inner),
          count(std::int64_t{N} * channel_groups * rows * columns),
          inner(channels_inner ? channel_groups : columns),
          middle(channels_inner ? columns : rows),
          outer(channels_inner ? rows : channel_groups) {}

    dim3 grid() const { return dim3(static_cast<unsigned>((count + kThreads - 1) / kThreads)); }
};

template <int kWidth>
__device__ __forceinline__ ThreadPixel pixel_of_thread(const Order& order) {
    std::int64_t index = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
    const bool inside = index < order.count;
    const int first = static_cast<int>(split_off(index, order.inner));
    const int second = static_cast<int>(split_off(index, order.middle));
    const int third = static_cast<int>(split_off(index, order.outer));
    const int n = static_cast<int>(index);
    if (order.channels_inner) return {n, first * kWidth, third, second, inside};
    return {n, third * kWidth, second, first, inside};
}

__device__ __forceinline__ std::int64_t offset(const Strides& strides, int n, int c, int row, int column) {
    return n * strides.n + c * strides.c + row * strides.h + column * strides.w;
}

template <typename Offset, int kWidth>
__device__ __forceinline__ void store_offsets(Offset* pointer, const int (&places)[kWidth]) {
    if constexpr (kWidth == 1) {
        *pointer = static_cast<Offset>(places[0]);
    } else {
        static_assert(sizeof(Offset) == 1 && kWidth % 4 == 0, "vectors are of bytes");
        unsigned words[kWidth / 4];
#pragma unroll
        for (int i = 0; i < kWidth / 4; ++i) {
            words[i] = places[4 * i] | places[4 * i + 1] << 8 | places[4 * i + 2] << 16 | places[4 * i + 3] << 24;
        }
        if constexpr (kWidth == 4) {
            *reinterpret_cast<unsigned*>(pointer) = words[0];
        } else {
            *reinterpret_cast<uint2*>(pointer) = make_uint2(words[0], words[1]);
        }
    }
}

template <typename Offset, int kWidth>
__device__ __forceinline__ void load_offsets(const Offset* pointer, int (&places)[kWidth]) {
    if constexpr (kWidth == 1) {
        places[0] = static_cast<int>(*pointer);
    } else {
        static_assert(sizeof(Offset) == 1 && kWidth % 4 == 0, "vectors are of bytes");
        unsigned words[kWidth / 4];
        if constexpr (kWidth == 4) {
            words[0] = *reinterpret_cast<const unsigned*>(pointer);
        } else {
            const uint2 both = *reinterpret_cast<const uint2*>(pointer);
            words[0] = both.x;
            words[1] = both.y;
        }
#pragma unroll
        for (int i = 0; i < kWidth; ++i) places[i] = static_cast<int>(words[i / 4] >> (8 * (i % 4)) & 0xff);
    }
}

// Whether `width` neighbouring channels can be accessed at once wherever a pixel starts.
inline bool in_vectors(const void* data, const Strides& strides, int width, std::size_t bytes) {
    return strides.c == 1 && strides.n % width == 0 && strides.h % width == 0 && strides.w % width == 0 &&
           reinterpret_cast<std::uintptr_t>(data) % (width * bytes) == 0;
}

template <typename T>
bool in_vectors(const Params& params) {
    constexpr int kWidth = kVector<T>;
    return !params.wide_offsets && params.C % kWidth == 0 &&
           in_vectors(params.image, params.image_strides, kWidth, sizeof(T)) &&
           in_vectors(params.pooled, params.pooled_strides, kWidth, sizeof(T)) &&
           (params.offsets == nullptr || in_vectors(params.offsets, params.offset_strides, kWidth, 1));
}

inline bool is_3x3_stride_2(const Window& window) {
    return window.R == 3 && window.S == 3 && window.stride_h == 2 && window.stride_w == 2 && window.dilation_h == 1 &&
           window.dilation_w == 1;
}

}  // namespace alexkern::max_pool2d
