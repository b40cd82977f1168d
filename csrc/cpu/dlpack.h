// The memory of memory.h as tensors: capsules as torch.from_dlpack takes them, whose deleter gives the memory back. It
// runs on whatever thread frees the tensor, without the interpreter. The structures are those of DLPack 0.8's dlpack.h.
#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <vector>

#include "memory.h"

namespace alexkern {

namespace dlpack {

struct Tensor {
    void* data;
    std::int32_t device_type, device_id;
    std::int32_t dimensions;
    std::uint8_t type_code, type_bits;
    std::uint16_t type_lanes;
    std::int64_t* shape;
    std::int64_t* strides;
    std::uint64_t byte_offset;
};

struct Managed {
    Tensor tensor;
    void* owner;
    void (*deleter)(Managed*);
};

constexpr std::int32_t CPU = 1;

struct Owned {
    Managed managed;
    memory::Block block;
    std::vector<std::int64_t> shape, strides;

    static void free(Managed* managed) {
        const auto* owned = static_cast<const Owned*>(managed->owner);
        memory::give_back(owned->block);
        delete owned;
    }
};

}  // namespace dlpack

inline void bind_memory(pybind11::module_& module) {
    using Sizes = std::vector<std::int64_t>;
    // None where there is no memory.
    module.def(
        "memory_take",
        [](std::size_t bytes, Sizes shape, Sizes strides, std::uint8_t code, std::uint8_t bits) -> pybind11::object {
            const memory::Block block = memory::take(bytes);
            if (block.start == nullptr) return pybind11::none();
            auto* owned = new dlpack::Owned{{}, block, std::move(shape), std::move(strides)};
            owned->managed = {{block.start, dlpack::CPU, 0, static_cast<std::int32_t>(owned->shape.size()), code, bits,
                               1, owned->shape.data(), owned->strides.data(), 0},
                              owned,
                              &dlpack::Owned::free};
            return pybind11::capsule(&owned->managed, "dltensor", [](PyObject* capsule) {
                // Of a capsule that was taken the name is another.
                if (!PyCapsule_IsValid(capsule, "dltensor")) return;
                dlpack::Owned::free(static_cast<dlpack::Managed*>(PyCapsule_GetPointer(capsule, "dltensor")));
            });
        });
    module.def("memory_keep", &memory::keep);
    module.def("memory_release", &memory::release, pybind11::call_guard<pybind11::gil_scoped_release>());
    module.def("memory_use", [] {
        const memory::Use now = memory::use();
        return std::make_pair(now.kept, now.lent);
    });
}

}  // namespace alexkern
