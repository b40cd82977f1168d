// The gradient of one pixel of the image, from the windows that it lies in.
#pragma once

#include "../elements.cuh"
#include "max_pool2d.h"
#include "pixel.cuh"

namespace alexkern::max_pool2d {

// The windows that a row (or column) of the image lies in are [first, end).
struct Range {
    int first, end;
};

__device__ __forceinline__ Range windows_over(int padded, int reach, int stride, int count) {
    const int behind = padded - reach;  // of the first window that is too early
    return {behind <= 0 ? 0 : (behind + stride - 1) / stride, min(padded / stride + 1, count)};
}

// total += the gradients of the windows whose saved place names the pixel (row, column), for kWidth channels from c on,
// window by window in their order. k3x3Stride2: the window is that, at compile time, and a pixel lies in one to four.
template <bool k3x3Stride2, typename T, typename Offset, int kWidth>
__device__ __forceinline__ void gather(float (&total)[kWidth], const Params& p, int n, int c, int row, int column) {
    const int S = k3x3Stride2 ? 3 : p.window.S, R = k3x3Stride2 ? 3 : p.window.R;
    const int stride_h = k3x3Stride2 ? 2 : p.window.stride_h, stride_w = k3x3Stride2 ? 2 : p.window.stride_w;
    const int dilation_h = k3x3Stride2 ? 1 : p.window.dilation_h, dilation_w = k3x3Stride2 ? 1 : p.window.dilation_w;
    const int h = row + p.window.padding_h, w = column + p.window.padding_w;
    const Range rows = windows_over(h, (R - 1) * dilation_h, stride_h, p.P);
    const Range columns = windows_over(w, (S - 1) * dilation_w, stride_w, p.Q);
    const T* const grad = static_cast<const T*>(p.pooled) + offset(p.pooled_strides, n, c, 0, 0);  // (N, C, P, Q)
    const Offset* const saved = static_cast<const Offset*>(p.offsets) + offset(p.offset_strides, n, c, 0, 0);
    const auto add_window = [&](int window_row, int window_column) {
        const int below = h - window_row * stride_h, right = w - window_column * stride_w;
        if (below % dilation_h != 0 || right % dilation_w != 0) return;
        const int wanted = below / dilation_h * S + right / dilation_w;
        float values[kWidth];
        int places[kWidth];
        load_constant_vector(grad + window_row * p.pooled_strides.h + window_column * p.pooled_strides.w, values);
        load_offsets(saved + window_row * p.offset_strides.h + window_column * p.offset_strides.w, places);
#pragma unroll
        for (int i = 0; i < kWidth; ++i) {
            if (places[i] == wanted) total[i] += values[i];
        }
    };
    if constexpr (k3x3Stride2) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
#pragma unroll
            for (int j = 0; j < 2; ++j) {
                const int window_row = rows.first + i, window_column = columns.first + j;
                if (window_row < rows.end && window_column < columns.end) add_window(window_row, window_column);
            }
        }
    } else {
#pragma unroll 1
        for (int i = rows.first; i < rows.end; ++i) {
#pragma unroll 1
            for (int j = columns.first; j < columns.end; ++j) add_window(i, j);
        }
    }
}

}  // namespace alexkern::max_pool2d
