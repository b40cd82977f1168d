// The Python face of the CUDA kernels: raw pointers, sizes, strides and a stream. No torch header may come in here: the
// module builds without torch and goes on working when torch moves. The build includes every folder's bind.h before
// this file. Compiled with ALEXKERN_EMULATED it has the same operators, which take the host's pointers. ALEXKERN_MODULE
// is the module's name: another for alexkern._cuda, the rehearsal's and the emulated one, so that none can be loaded as
// another.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "../binding.h"
#include "elements.h"

namespace py = pybind11;

namespace {

void bind_operators(py::module_& m) {
    using alexkern::Element;
    py::dict elements;
    elements["float32"] = static_cast<int>(Element::float32);
    elements["float16"] = static_cast<int>(Element::float16);
    elements["bfloat16"] = static_cast<int>(Element::bfloat16);
    m.attr("elements") = elements;
    m.attr("geometry") = alexkern::geometry_fields();
    alexkern::Binding::add_all(m);
}

}  // namespace

#ifdef ALEXKERN_EMULATED

#include "../emulator/launch.h"

PYBIND11_MODULE(ALEXKERN_MODULE, m) {
    m.doc() = "alexkern's CUDA kernels, on the host's emulator";
    m.def(
        "set_seed", [](std::uint64_t seed) { emulator::options().seed = seed; },
        "Decides what CUDA leaves open in the next launches: orders, and when copies and products take effect.");
    m.def(
        "set_shared_memory_per_block", [](std::size_t bytes) { emulator::options().shared_memory_per_block = bytes; },
        "The most that a block of the next launches may have.");
    bind_operators(m);
}

#else

#include <optional>
#include <utility>

#include "runtime.h"

namespace {

using Version = std::pair<int, int>;

Version split(int version) { return {version / 1000, version % 1000 / 10}; }

std::optional<Version> driver_version() {
    const int version = alexkern::driver_cuda_version();
    return version ? std::optional<Version>(split(version)) : std::nullopt;
}

}  // namespace

PYBIND11_MODULE(ALEXKERN_MODULE, m) {
    m.doc() = "alexkern's CUDA kernels";
    m.attr("__version__") = ALEXKERN_VERSION;
    m.attr("sources") = ALEXKERN_SOURCES;
    m.attr("cuda_version") = split(alexkern::built_cuda_version());
    m.attr("targets") = py::tuple(py::str(ALEXKERN_TARGETS).attr("split")());

    m.def("driver_version", &driver_version,
          "The newest CUDA version that the driver supports; None without a driver.");
    m.def("device_count", &alexkern::device_count, "How many GPUs this process sees; 0 without a usable driver.");

    using alexkern::DeviceProperties;
    py::class_<DeviceProperties>(m, "DeviceProperties", py::module_local())
        .def_readonly("name", &DeviceProperties::name)
        .def_property_readonly("capability", [](const DeviceProperties& p) { return Version(p.major, p.minor); })
        .def_readonly("multiprocessors", &DeviceProperties::multiprocessors)
        .def_readonly("total_memory", &DeviceProperties::total_memory, "bytes")
        .def_readonly("l2_cache", &DeviceProperties::l2_cache, "bytes")
        .def_readonly("shared_memory_per_block", &DeviceProperties::shared_memory_per_block, "bytes, with the opt-in");
    m.def("device_properties", &alexkern::device_properties, py::arg("index"));
    bind_operators(m);
}

#endif
