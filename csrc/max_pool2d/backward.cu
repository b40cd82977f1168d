// The gradient of every input pixel, gathered from the windows that it lies in: those whose saved place names it.
#include "../ptx/launch.cuh"
#include "max_pool2d.h"
#include "place.cuh"

namespace alexkern::max_pool2d {
namespace {

// The windows that a row (or column) of the image lies in are [first, end).
struct Range {
    int first, end;
};

__device__ __forceinline__ Range windows_over(int padded, int reach, int stride, int count) {
    const int behind = padded - reach;  // of the first window that is too early
    return {behind <= 0 ? 0 : (behind + stride - 1) / stride, min(padded / stride + 1, count)};
}

// k3x3Stride2: the window is that, at compile time; a pixel then lies in one to four windows.
template <typename T, typename Offset, int kWidth, bool k3x3Stride2>
__global__ void __launch_bounds__(kThreads)
    backward_kernel(const __grid_constant__ Params p, const __grid_constant__ Order order) {
    const Place at = place<kWidth>(order);
    if (!at.inside) return;
    const int S = k3x3Stride2 ? 3 : p.window.S, R = k3x3Stride2 ? 3 : p.window.R;
    const int stride_h = k3x3Stride2 ? 2 : p.window.stride_h, stride_w = k3x3Stride2 ? 2 : p.window.stride_w;
    const int dilation_h = k3x3Stride2 ? 1 : p.window.dilation_h, dilation_w = k3x3Stride2 ? 1 : p.window.dilation_w;
    const int h = at.row + p.window.padding_h, w = at.column + p.window.padding_w;
    const Range rows = windows_over(h, (R - 1) * dilation_h, stride_h, p.P);
    const Range columns = windows_over(w, (S - 1) * dilation_w, stride_w, p.Q);
    const T* grad = static_cast<const T*>(p.pooled) + offset(p.pooled_strides, at.n, at.c, 0, 0);  // (N, C, P, Q)
    const Offset* saved = static_cast<const Offset*>(p.offsets) + offset(p.offset_strides, at.n, at.c, 0, 0);
    float total[kWidth] = {};
    const auto add_window = [&](int row, int column) {
        const int below = h - row * stride_h, right = w - column * stride_w;
        if (below % dilation_h != 0 || right % dilation_w != 0) return;
        const int wanted = below / dilation_h * S + right / dilation_w;
        float values[kWidth];
        int places[kWidth];
        load_vector(grad + row * p.pooled_strides.h + column * p.pooled_strides.w, values);
        load_offsets(saved + row * p.offset_strides.h + column * p.offset_strides.w, places);
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
                const int row = rows.first + i, column = columns.first + j;
                if (row < rows.end && column < columns.end) add_window(row, column);
            }
        }
    } else {
        for (int row = rows.first; row < rows.end; ++row) {
            for (int column = columns.first; column < columns.end; ++column) add_window(row, column);
        }
    }
    store_vector(static_cast<T*>(p.image) + offset(p.image_strides, at.n, at.c, at.row, at.column), total);
}

template <typename T, typename Offset, int kWidth>
void launch(const Params& params, Stream stream) {
    const bool channels_inner = params.image_strides.c == 1;
    const Order order(params.N, params.C / kWidth, params.H, params.W, channels_inner);
    auto kernel = backward_kernel<T, Offset, kWidth, false>;
    if constexpr (sizeof(Offset) == 1) {
        if (is_3x3_stride_2(params.window)) kernel = backward_kernel<T, Offset, kWidth, true>;
    }
    ptx::launch("max_pool2d_backward", kernel, order.grid(), dim3(kThreads), 0, stream, params, order);
}

}  // namespace

void backward(const Params& params, Stream stream) {
    with_type(params.element, [&](auto type) {
        using T = decltype(type);
        if (params.wide_offsets) {
            launch<T, std::int32_t, 1>(params, stream);
        } else if (in_vectors<T>(params)) {
            launch<T, std::uint8_t, kVector<T>>(params, stream);
        } else {
            launch<T, std::uint8_t, 1>(params, stream);
        }
    });
}

}  // namespace alexkern::max_pool2d
