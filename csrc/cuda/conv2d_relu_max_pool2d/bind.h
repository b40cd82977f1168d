#pragma once

#include "../conv2d_relu/bind.h"
#include "../max_pool2d/bind.h"
#include "conv2d_relu_max_pool2d.h"

namespace alexkern {

inline void bind_conv2d_relu_max_pool2d(pybind11::module_& module) {
    using namespace conv2d_relu_max_pool2d;
    const auto tuple_of = [](const Cost& cost) { return std::array<double, 3>{cost.flops, cost.bytes, cost.time}; };
    module.def(
        "conv2d_relu_max_pool2d_compare",
        [tuple_of](int element, bool tf32, int N, const Pair& size, int K, int groups, int depth, std::int64_t bytes,
                   bool save_offsets, int multiprocessors) {
            const Problem problem{
                {static_cast<Element>(element), tf32}, N, size[0], size[1], K, groups, depth, bytes, save_offsets};
            const auto [plan, fused, separate] = compare(problem, multiprocessors);
            return pybind11::make_tuple(std::array<int, 3>{plan.tile, plan.windows, plan.segment}, tuple_of(fused),
                                        tuple_of(separate));
        },
        "The fused kernel's plan (tile, windows, segment); then FLOPs, bytes and time, fused and separate.");

    module.def("conv2d_relu_max_pool2d_forward",
               [](int element, bool tf32, Address input, const Pair& input_size, int C, Address weight, int K,
                  Address bias, Address output, const Four& sizes, const Four& strides, Address offsets,
                  const Pair& kernel_size, const Pair& stride, const Pair& padding, const Pair& dilation, int groups,
                  const std::array<int, 3>& plan, Address cuda_stream) {
                   ForwardParams p{};
                   set_convolution(p, input, input_size, C, weight, K, bias, kernel_size, stride, padding, dilation,
                                   groups);
                   p.output = image(output, sizes, strides);
                   p.offsets = pointer(offsets);
                   p.plan = {plan[0], plan[1], plan[2]};
                   forward({static_cast<Element>(element), tf32}, p, pointer<CUstream_st>(cuda_stream));
               });

    module.def("conv2d_relu_max_pool2d_backward",
               [](int element, bool wide_offsets, const std::array<int, 4>& image_shape, const Pair& pooled_size,
                  const std::array<int, 8>& window, Address grad, const Four& grad_strides, Address offsets,
                  Address output, const Four& saved_strides, Address destination, Address sums, int groups,
                  int padded_C, int chunks, Address stream) {
                   backward({pool_params(element, wide_offsets, image_shape, pooled_size, window, 0, {}, grad,
                                         grad_strides, offsets, saved_strides),
                             pointer(output), pointer(destination), pointer<float>(sums), groups, padded_C, chunks},
                            pointer<CUstream_st>(stream));
               });
}

}  // namespace alexkern
