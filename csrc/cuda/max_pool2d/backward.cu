// The gradient of every input pixel, gathered from the windows that it lies in: those whose saved place names it, the
// byte of examples/ladder/5_fused.cu.
#include "../ptx/launch.cuh"
#include "gather.cuh"
#include "max_pool2d.h"
#include "pixel.cuh"

namespace alexkern::max_pool2d {
namespace {

template <typename T, typename Offset, int kWidth, bool k3x3Stride2>
__global__ void __launch_bounds__(kThreads)
    backward_kernel(const __grid_constant__ Params p, const __grid_constant__ Order order) {
    const ThreadPixel at = pixel_of_thread<kWidth>(order);
    if (!at.inside) return;
    float total[kWidth] = {};
    gather<k3x3Stride2, T, Offset>(total, p, at.n, at.c, at.row, at.column);
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
