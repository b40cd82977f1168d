// The sm_90a launchers of conv2d_relu and linear_relu_dropout for Python.
#pragma once

#include <pybind11/stl.h>

#include "../../binding.h"
#include "sm90.h"

namespace alexkern {

const Binding sm90_binding([](pybind11::module_& module) {
    using namespace sm90;
    module.attr("sm90_tiles") = pybind11::make_tuple(kBlockM, kBlockN, kWeightBlockN);
    module.attr("sm90_block_k") = pybind11::make_tuple(kSmallBlockK, kLargeBlockK);
    module.def("sm90_block_k_of", &block_k_of, "Channels of a step, for so many channels of a group.");

    module.def("sm90_convolve",
               [](int element, const Geometry& geometry, bool turned, Address input, int padded_C, Address filters,
                  Address bias, Address partials, Address output, Address mask, Address seed, std::uint64_t limit,
                  float scale, const Three& choice, int multiprocessors, Address stream) {
                   convolve(static_cast<Element>(element),
                            {sizes_of(geometry, padded_C),
                             pointer(input),
                             pointer(filters),
                             pointer(bias),
                             pointer(output),
                             pointer<float>(partials),
                             turned,
                             !turned,
                             pointer<std::uint8_t>(mask),
                             pointer<const std::int64_t>(seed),
                             limit,
                             scale,
                             {choice[0], choice[1], choice[2]},
                             multiprocessors},
                            pointer<CUstream_st>(stream));
               });

    module.def("sm90_weight_gradient",
               [](int element, const Geometry& geometry, Address input, int padded_C, Address grad, int padded_K,
                  Address partials, const Three& choice, int multiprocessors, Address stream) {
                   Sizes sizes = sizes_of(geometry, padded_C);
                   const int filters = std::exchange(sizes.K, padded_K);
                   weight_gradient(static_cast<Element>(element),
                                   {sizes,
                                    pointer(input),
                                    pointer(grad),
                                    pointer<float>(partials),
                                    filters,
                                    {choice[0], choice[1], choice[2]},
                                    multiprocessors},
                                   pointer<CUstream_st>(stream));
               });
});

}  // namespace alexkern
