// What the kernels take from Python beside addresses: a tuple of whole numbers, which fills a structure of such.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <cstring>

namespace alexkern {

template <typename Structure>
Structure numbers(const pybind11::tuple& from) {
    constexpr std::size_t count = sizeof(Structure) / sizeof(std::int64_t);
    if (from.size() != count) throw pybind11::type_error("a tuple of " + std::to_string(count) + " numbers is wanted");
    std::int64_t read[count];
    for (std::size_t i = 0; i < count; ++i) {
        read[i] = PyLong_AsLongLong(PyTuple_GET_ITEM(from.ptr(), i));
        if (read[i] == -1 && PyErr_Occurred()) throw pybind11::error_already_set();
    }
    Structure made;
    static_assert(sizeof(made) == sizeof(read), "nothing but whole numbers");
    std::memcpy(&made, read, sizeof(made));
    return made;
}

}  // namespace alexkern
