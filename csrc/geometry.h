// The sizes of a convolution, or of pooling's windows: Geometry of alexkern/geometry.py, field by field. arguments.h
// reads one from Python.
#pragma once

#include <array>
#include <cstdint>

namespace alexkern {

template <typename Number>
struct GeometryOf {
    using Pair = std::array<Number, 2>;  // vertical, horizontal
    Number N, C, H, W, K, R, S;
    Pair stride, padding, dilation;
    Number groups;

    Number P() const { return outputs(0, H, R); }
    Number Q() const { return outputs(1, W, S); }

  private:
    Number outputs(int axis, Number size, Number taps) const {
        const auto wide = [](Number number) { return static_cast<std::int64_t>(number); };
        const std::int64_t reach = wide(size) + 2 * wide(padding[axis]) - wide(dilation[axis]) * (taps - 1) - 1;
        return static_cast<Number>(reach / stride[axis] + 1);
    }
};

using Geometry = GeometryOf<int>;
using WideGeometry = GeometryOf<std::int64_t>;  // of images on a CPU, where every count has 64 bits

}  // namespace alexkern
