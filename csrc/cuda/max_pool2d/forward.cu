// The maximum of every window. 3x3 windows of stride 2 inside the image (AlexNet's) go in strips of windows below each
// other, whose shared rows are read once; any other window is walked through position by position. Its rung is pool of
// examples/ladder/1_naive.cu.
#include <algorithm>
#include <cmath>

#include "../ptx/launch.cuh"
#include "best.cuh"
#include "max_pool2d.h"
#include "pixel.cuh"

namespace alexkern::max_pool2d {
namespace {

template <typename T, int kWidth, bool kSave>
__global__ void __launch_bounds__(kThreads)
    strip_kernel(const __grid_constant__ Params p, const __grid_constant__ Order order, int windows) {
    const ThreadPixel at = pixel_of_thread<kWidth>(order);
    if (!at.inside) return;
    const int first = at.row * windows, end = min(first + windows, p.P);
    const T* pixels =
        static_cast<const T*>(p.image) + offset(p.image_strides, at.n, at.c, 2 * first, 2 * at.column);  // (N, C, H, W)
    T* pooled = static_cast<T*>(p.pooled) + offset(p.pooled_strides, at.n, at.c, first, at.column);      // (N, C, P, Q)
    auto* places = static_cast<std::uint8_t*>(p.offsets);                                                // (N, C, P, Q)
    if constexpr (kSave) places += offset(p.offset_strides, at.n, at.c, first, at.column);
    Best<kWidth> above = best_of_three<kWidth>(pixels, p.image_strides.w);
    for (int row = first; row < end; ++row) {
        const Best<kWidth> middle = best_of_three<kWidth>(pixels + p.image_strides.h, p.image_strides.w);
        const Best<kWidth> below = best_of_three<kWidth>(pixels + 2 * p.image_strides.h, p.image_strides.w);
        join_rows(above, middle, below);
        store_vector(pooled, above.value);
        if constexpr (kSave) {
            if (p.behind_relu) clip<std::uint8_t>(above);
            store_offsets(places, above.place);
            places += p.offset_strides.h;
        }
        above = below;
        pixels += 2 * p.image_strides.h;
        pooled += p.pooled_strides.h;
    }
}

template <typename T, typename Offset, int kWidth>
__global__ void __launch_bounds__(kThreads)
    window_kernel(const __grid_constant__ Params p, const __grid_constant__ Order order) {
    const ThreadPixel at = pixel_of_thread<kWidth>(order);
    if (!at.inside) return;
    const Window& window = p.window;
    const int top = at.row * window.stride_h - window.padding_h;
    const int left = at.column * window.stride_w - window.padding_w;
    // The first row and column of the window inside the image.
    const int first_r = top < 0 ? (-top + window.dilation_h - 1) / window.dilation_h : 0;
    const int first_s = left < 0 ? (-left + window.dilation_w - 1) / window.dilation_w : 0;
    const T* image = static_cast<const T*>(p.image) + offset(p.image_strides, at.n, at.c, 0, 0);
    Best<kWidth> best;
#pragma unroll
    for (int i = 0; i < kWidth; ++i) {
        best.value[i] = -INFINITY;
        best.place[i] = first_r * window.S + first_s;
    }
    for (int r = first_r; r < window.R; ++r) {
        const int h = top + r * window.dilation_h;
        if (h >= p.H) break;
        for (int s = first_s; s < window.S; ++s) {
            const int w = left + s * window.dilation_w;
            if (w >= p.W) break;
            float values[kWidth];
            load_vector(image + h * p.image_strides.h + w * p.image_strides.w, values);
#pragma unroll
            for (int i = 0; i < kWidth; ++i) join(best, i, values[i], r * window.S + s);
        }
    }
    store_vector(static_cast<T*>(p.pooled) + offset(p.pooled_strides, at.n, at.c, at.row, at.column), best.value);
    if (p.offsets != nullptr) {
        if (p.behind_relu) clip<Offset>(best);
        store_offsets(static_cast<Offset*>(p.offsets) + offset(p.offset_strides, at.n, at.c, at.row, at.column),
                      best.place);
    }
}

template <typename T, int kWidth>
void launch_strips(const Params& params, bool channels_inner, Stream stream) {
    const int groups = params.C / kWidth;
    const int windows = windows_of_strip(std::int64_t{params.N} * groups * params.P * params.Q, params.P);
    const Order order(params.N, groups, (params.P + windows - 1) / windows, params.Q, channels_inner);
    const auto kernel = params.offsets == nullptr ? strip_kernel<T, kWidth, false> : strip_kernel<T, kWidth, true>;
    ptx::launch("max_pool2d_forward", kernel, order.grid(), dim3(kThreads), 0, stream, params, order, windows);
}

template <typename T, typename Offset, int kWidth>
void launch_windows(const Params& params, bool channels_inner, Stream stream) {
    const Order order(params.N, params.C / kWidth, params.P, params.Q, channels_inner);
    ptx::launch("max_pool2d_forward", window_kernel<T, Offset, kWidth>, order.grid(), dim3(kThreads), 0, stream, params,
                order);
}

bool strips_serve(const Params& params) {
    const Window& window = params.window;
    return is_3x3_stride_2(window) && window.padding_h == 0 && window.padding_w == 0 && 2 * params.P + 1 <= params.H &&
           2 * params.Q + 1 <= params.W;
}

}  // namespace

int windows_of_strip(std::int64_t pooled_vectors, int P) {
    constexpr std::int64_t kThreadsOfFullGpu = 1 << 17;
    const auto strips = [P](int windows) { return (P + windows - 1) / windows; };
    int best = 1;
    for (int windows = 2; windows <= std::min(4, P) && pooled_vectors / windows >= kThreadsOfFullGpu; ++windows) {
        if (strips(windows) < strips(best)) best = windows;
    }
    return best;
}

void forward(const Params& params, Stream stream) {
    const bool channels_inner = params.image_strides.c == 1;
    with_type(params.element, [&](auto type) {
        using T = decltype(type);
        const bool vectors = in_vectors<T>(params);
        if (strips_serve(params)) {
            vectors ? launch_strips<T, kVector<T>>(params, channels_inner, stream)
                    : launch_strips<T, 1>(params, channels_inner, stream);
        } else if (params.wide_offsets) {
            launch_windows<T, std::int32_t, 1>(params, channels_inner, stream);
        } else {
            vectors ? launch_windows<T, std::uint8_t, kVector<T>>(params, channels_inner, stream)
                    : launch_windows<T, std::uint8_t, 1>(params, channels_inner, stream);
        }
    });
}

}  // namespace alexkern::max_pool2d
