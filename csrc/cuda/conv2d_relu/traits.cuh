// The instantiations there are, and how a launcher finds the one it wants.
#pragma once

#include <stdexcept>
#include <string>

#include "../divider.h"
#include "../elements.cuh"
#include "../mma/pipeline.cuh"
#include "../ptx/launch.cuh"
#include "conv2d_relu.h"

namespace alexkern::conv2d_relu {

// Tile by tile as in kTileSizes. Warps of 64 x 32 read the fewest bytes of shared memory for a product.
template <int kTile>
struct ShapeOf;
template <>
struct ShapeOf<0> : mma::Shape<128, 128, 2, 4, 3> {};
template <>
struct ShapeOf<1> : mma::Shape<128, 64, 2, 2, 3> {};
template <>
struct ShapeOf<2> : mma::Shape<64, 64, 2, 2, 3> {};

// Blocks a multiprocessor that a product is compiled for at least; 0 leaves it to the compiler. Small copies take more
// registers, which are not to be spilled for the sake of one block more.
template <int kCopyBytes>
constexpr int blocks_of() {
    return kCopyBytes == 8 ? 1 : 0;
}

// Calls launch(arithmetic, shape, std::integral_constant<int, bytes of a copy>): copies of 8 bytes for images of up to
// four 16-bit channels, else of 16. Tiles before kFirstTile are not compiled.
template <int kFirstTile, typename Arithmetic, typename Launch>
void with_shape(int tile, int channels, Launch&& launch) {
    const auto with_copy = [&](auto shape) {
        using Copy16 = std::integral_constant<int, 16>;
        using Copy8 = std::integral_constant<int, 8>;
        const std::size_t bytes = channels * sizeof(typename Arithmetic::Element);
        if (bytes % 16 == 0) {
            launch(Arithmetic{}, shape, Copy16{});
            return;
        }
        if constexpr (sizeof(typename Arithmetic::Element) == 2) {
            if (bytes == 8) {
                launch(Arithmetic{}, shape, Copy8{});
                return;
            }
        }
        throw std::runtime_error("conv2d_relu: channels are not padded to whole copies: " + std::to_string(channels));
    };
    if constexpr (kFirstTile == 0) {
        if (tile == 0) return with_copy(ShapeOf<0>{});
    }
    if (tile == 1) return with_copy(ShapeOf<1>{});
    if (tile == 2) return with_copy(ShapeOf<2>{});
    throw std::runtime_error("conv2d_relu: no tile " + std::to_string(tile));
}

template <int kFirstTile = 0, typename Launch>
void with_instantiation(Arithmetic arithmetic, int tile, int channels, Launch&& launch) {
    with_type(arithmetic.element, [&](auto element) {
        using T = decltype(element);
        if constexpr (sizeof(T) == 2) {
            with_shape<kFirstTile, mma::Half<T>>(tile, channels, launch);
        } else if (arithmetic.tf32) {
            with_shape<kFirstTile, mma::Tf32>(tile, channels, launch);
        } else {
            with_shape<kFirstTile, mma::Fp32>(tile, channels, launch);
        }
    });
}

// A one-dimensional grid.
inline dim3 grid_of(std::int64_t blocks, const char* what) {
    if (blocks > 0x7fffffff) throw std::runtime_error(std::string("conv2d_relu: ") + what + ": too large for one grid");
    return dim3(static_cast<unsigned>(blocks));
}

}  // namespace alexkern::conv2d_relu
