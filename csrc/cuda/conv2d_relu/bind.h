// conv2d_relu's launchers for Python, each a step of the operator.
#pragma once

#include "../../binding.h"
#include "conv2d_relu.h"

namespace alexkern {

inline conv2d_relu::Image image(Address data, const Shape& of, const Strides& strides) {
    return {pointer(data), of[0], of[1], of[2], of[3], strides[0], strides[1], strides[2], strides[3]};
}

const Binding conv2d_relu_binding([](pybind11::module_& module) {
    using namespace conv2d_relu;
    pybind11::list tiles;
    for (const TileSize& tile : kTileSizes) tiles.append(pybind11::make_tuple(tile.m, tile.n));
    module.attr("conv2d_relu_tiles") = pybind11::tuple(tiles);

    module.def("conv2d_relu_pack", [](int element, Address source, const Shape& shape, const Strides& strides,
                                      Address mask, const Strides& mask_strides, Address destination, Address sums,
                                      int groups, int padded_C, int chunks, Address stream) {
        pack(static_cast<Element>(element),
             {image(source, shape, strides), image(mask, shape, mask_strides), pointer(destination),
              pointer<float>(sums), groups, padded_C, chunks},
             pointer<CUstream_st>(stream));
    });

    module.def("conv2d_relu_convolve",
               [](int element, bool tf32, const Geometry& geometry, bool transposed, Address input, int padded_C,
                  Address weight, Address bias, Address partials, int padded_K, Address output, const Strides& strides,
                  const Two& choice, Address stream) {
                   Sizes sizes = sizes_of(geometry, padded_C);
                   Shape shape{geometry.N, geometry.K, sizes.P, sizes.Q};
                   if (transposed) {  // from the output's gradient to the input's
                       shape = {geometry.N, geometry.C, sizes.H, sizes.W};
                       sizes.H = sizes.P;
                       sizes.W = sizes.Q;
                       sizes.K = geometry.C / geometry.groups;
                   }
                   convolve({static_cast<Element>(element), tf32},
                            {{sizes, pointer(input), pointer(weight), pointer(bias)},
                             pointer<float>(partials),
                             image(output, shape, strides),
                             padded_K,
                             transposed,
                             !transposed,
                             {choice[0], choice[1]}},
                            pointer<CUstream_st>(stream));
               });

    module.def("conv2d_relu_weight_gradient",
               [](int element, bool tf32, const Geometry& geometry, Address input, int padded_C, Address grad,
                  int padded_K, Address partials, const Two& choice, Address stream) {
                   weight_gradient({static_cast<Element>(element), tf32},
                                   {sizes_of(geometry, padded_C),
                                    pointer(input),
                                    pointer(grad),
                                    pointer<float>(partials),
                                    padded_K,
                                    {choice[0], choice[1]}},
                                   pointer<CUstream_st>(stream));
               });

    module.def("conv2d_relu_reduce",
               [](int element, Address partials, int splits, int groups, int padded_C, Address bias, Address output,
                  const Shape& shape, const Strides& strides, bool relu, Address stream) {
                   reduce(static_cast<Element>(element),
                          {pointer<const float>(partials), pointer(bias), image(output, shape, strides), groups,
                           padded_C, splits, relu},
                          pointer<CUstream_st>(stream));
               });
});

}  // namespace alexkern
