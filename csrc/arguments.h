// What the launchers take from Python: addresses, tuples of numbers, and a Geometry.
#pragma once

#include <pybind11/pybind11.h>

#include <array>
#include <cstdint>
#include <tuple>
#include <utility>

#include "geometry.h"
#include "plain.h"

namespace alexkern {

using Shape = Tuple<int, 4>;             // N, C, H, W
using Strides = Tuple<std::int64_t, 4>;  // of the same, in elements
using Two = Tuple<int, 2>;
using Three = Tuple<int, 3>;

// The fields of a geometry in Python's order: read by it, and shown to it.
template <typename Geometry>
constexpr std::tuple kGeometryFields{
    std::pair{"N", &Geometry::N},
    std::pair{"C", &Geometry::C},
    std::pair{"H", &Geometry::H},
    std::pair{"W", &Geometry::W},
    std::pair{"K", &Geometry::K},
    std::pair{"R", &Geometry::R},
    std::pair{"S", &Geometry::S},
    std::pair{"stride", &Geometry::stride},
    std::pair{"padding", &Geometry::padding},
    std::pair{"dilation", &Geometry::dilation},
    std::pair{"groups", &Geometry::groups},
};

inline bool is_tuple(pybind11::handle from, std::size_t count) {
    return PyTuple_Check(from.ptr()) && static_cast<std::size_t>(PyTuple_GET_SIZE(from.ptr())) == count;
}

template <typename T>
bool read(pybind11::handle from, T& to) {
    pybind11::detail::make_caster<T> number;
    if (!number.load(from, false)) return false;
    to = number;
    return true;
}

template <typename T, std::size_t kCount>
bool read(pybind11::handle from, std::array<T, kCount>& to) {
    if (!is_tuple(from, kCount)) return false;
    for (std::size_t i = 0; i < kCount; ++i) {
        if (!read(PyTuple_GET_ITEM(from.ptr(), i), to[i])) return false;
    }
    return true;
}

template <typename Number>
bool read(pybind11::handle from, GeometryOf<Number>& to) {
    constexpr auto& fields = kGeometryFields<GeometryOf<Number>>;
    static_assert(std::apply([](auto... field) { return (sizeof(GeometryOf<Number>{}.*field.second) + ...); },
                             fields) == sizeof(to),
                  "every field is read");
    return is_tuple(from, std::tuple_size_v<std::decay_t<decltype(fields)>>) &&
           std::apply(
               [&, i = Py_ssize_t{0}](auto... field) mutable {
                   return (read(PyTuple_GET_ITEM(from.ptr(), i++), to.*field.second) && ...);
               },
               fields);
}

inline pybind11::tuple geometry_fields() {
    return std::apply([](auto... field) { return pybind11::make_tuple(field.first...); }, kGeometryFields<Geometry>);
}

}  // namespace alexkern

namespace pybind11::detail {

template <typename Number>
struct type_caster<alexkern::GeometryOf<Number>> {
    PYBIND11_TYPE_CASTER(alexkern::GeometryOf<Number>, const_name("alexkern.geometry.Geometry"));
    bool load(handle from, bool) { return alexkern::read(from, value); }
};

template <typename T, std::size_t kCount>
struct type_caster<alexkern::Tuple<T, kCount>> {
    using Array = std::array<T, kCount>;
    PYBIND11_TYPE_CASTER(PYBIND11_TYPE(alexkern::Tuple<T, kCount>), const_name("tuple"));
    bool load(handle from, bool) { return alexkern::read(from, static_cast<Array&>(value)); }
};

}  // namespace pybind11::detail
