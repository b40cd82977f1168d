// conv2d_relu's launchers for Python, each a step of the operator.
#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "../../pointers.h"
#include "conv2d_relu.h"

namespace alexkern {

inline conv2d_relu::Image image(Address data, const Four& sizes, const Four& strides) {
    const auto size = [&](int i) { return static_cast<int>(sizes[i]); };
    return {pointer(data), size(0), size(1), size(2), size(3), strides[0], strides[1], strides[2], strides[3]};
}

// What the parameters of all convolution kernels, here and in csrc/cuda/sm90, have in common.
template <typename Params>
void set_filters(Params& p, int C, int K, const Pair& kernel_size, const Pair& stride, const Pair& padding,
                 const Pair& dilation, int groups) {
    p.C = C;
    p.K = K;
    p.R = kernel_size[0];
    p.S = kernel_size[1];
    p.groups = groups;
    p.vertical = {stride[0], padding[0], dilation[0]};
    p.horizontal = {stride[1], padding[1], dilation[1]};
}

inline void set_convolution(conv2d_relu::Convolution& p, Address input, const Pair& input_size, int C, Address weight,
                            int K, Address bias, const Pair& kernel_size, const Pair& stride, const Pair& padding,
                            const Pair& dilation, int groups) {
    p.input = pointer(input);
    p.weight = pointer(weight);
    p.bias = pointer(bias);
    p.H = input_size[0];
    p.W = input_size[1];
    set_filters(p, C, K, kernel_size, stride, padding, dilation, groups);
}

// Where the images are dense.
template <typename Params>
void set_sizes(Params& p, const Four& sizes, int C, const Pair& output_size, int K, const Pair& kernel_size,
               const Pair& stride, const Pair& padding, const Pair& dilation, int groups) {
    p.N = static_cast<int>(sizes[0]);
    p.H = static_cast<int>(sizes[2]);
    p.W = static_cast<int>(sizes[3]);
    p.P = output_size[0];
    p.Q = output_size[1];
    set_filters(p, C, K, kernel_size, stride, padding, dilation, groups);
}

inline void bind_conv2d_relu(pybind11::module_& module) {
    using namespace conv2d_relu;
    pybind11::list tiles;
    for (const TileSize& tile : kTileSizes) tiles.append(pybind11::make_tuple(tile.m, tile.n));
    module.attr("conv2d_relu_tiles") = pybind11::tuple(tiles);

    module.def("conv2d_relu_pack", [](int element, Address source, const Four& sizes, const Four& strides, Address mask,
                                      const Four& mask_strides, Address destination, Address sums, int groups,
                                      int padded_C, int chunks, Address stream) {
        pack(static_cast<Element>(element),
             {image(source, sizes, strides), image(mask, sizes, mask_strides), pointer(destination),
              pointer<float>(sums), groups, padded_C, chunks},
             pointer<CUstream_st>(stream));
    });

    module.def("conv2d_relu_convolve",
               [](int element, bool tf32, Address input, const Pair& input_size, int C, Address weight, int K,
                  Address bias, Address partials, int padded_K, Address output, const Four& sizes, const Four& strides,
                  const Pair& kernel_size, const Pair& stride, const Pair& padding, const Pair& dilation, int groups,
                  bool transposed, bool relu, const Pair& choice, Address cuda_stream) {
                   ConvolveParams p{};
                   set_convolution(p, input, input_size, C, weight, K, bias, kernel_size, stride, padding, dilation,
                                   groups);
                   p.partials = pointer<float>(partials);
                   p.output = image(output, sizes, strides);
                   p.padded_K = padded_K;
                   p.transposed = transposed;
                   p.relu = relu;
                   p.choice = {choice[0], choice[1]};
                   convolve({static_cast<Element>(element), tf32}, p, pointer<CUstream_st>(cuda_stream));
               });

    module.def(
        "conv2d_relu_weight_gradient",
        [](int element, bool tf32, Address input, const Four& sizes, int C, Address grad, const Pair& output_size,
           int K, int padded_K, Address partials, const Pair& kernel_size, const Pair& stride, const Pair& padding,
           const Pair& dilation, int groups, const Pair& choice, Address cuda_stream) {
            WeightGradientParams p{};
            p.input = pointer(input);
            p.grad = pointer(grad);
            p.partials = pointer<float>(partials);
            set_sizes(p, sizes, C, output_size, K, kernel_size, stride, padding, dilation, groups);
            p.padded_K = padded_K;
            p.choice = {choice[0], choice[1]};
            weight_gradient({static_cast<Element>(element), tf32}, p, pointer<CUstream_st>(cuda_stream));
        });

    module.def("conv2d_relu_reduce",
               [](int element, Address partials, int splits, int groups, int padded_C, Address bias, Address output,
                  const Four& sizes, const Four& strides, bool relu, Address stream) {
                   reduce(static_cast<Element>(element),
                          {pointer<const float>(partials), pointer(bias), image(output, sizes, strides), groups,
                           padded_C, splits, relu},
                          pointer<CUstream_st>(stream));
               });
}

}  // namespace alexkern
