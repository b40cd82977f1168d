// The Python face of the native module: raw pointers, sizes, strides and a stream. No torch header may come in here:
// the module builds without torch and goes on working when torch moves.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <optional>
#include <utility>

#include "runtime.h"

namespace py = pybind11;

namespace {

using Version = std::pair<int, int>;

Version split(int version) { return {version / 1000, version % 1000 / 10}; }

std::optional<Version> driver_version() {
    const int version = alexkern::driver_cuda_version();
    return version ? std::optional<Version>(split(version)) : std::nullopt;
}

}  // namespace

PYBIND11_MODULE(_C, m) {
    m.doc() = "alexkern's CUDA kernels";
    m.attr("__version__") = ALEXKERN_VERSION;
    m.attr("cuda_version") = split(alexkern::built_cuda_version());
    m.attr("targets") = py::tuple(py::str(ALEXKERN_TARGETS).attr("split")());

    m.def("driver_version", &driver_version,
          "The newest CUDA version that the driver supports; None without a driver.");
    m.def("device_count", &alexkern::device_count, "How many GPUs this process sees; 0 without a usable driver.");

    using alexkern::DeviceProperties;
    py::class_<DeviceProperties>(m, "DeviceProperties")
        .def_readonly("name", &DeviceProperties::name)
        .def_property_readonly("capability", [](const DeviceProperties& p) { return Version(p.major, p.minor); })
        .def_readonly("multiprocessors", &DeviceProperties::multiprocessors)
        .def_readonly("total_memory", &DeviceProperties::total_memory, "bytes")
        .def_readonly("l2_cache", &DeviceProperties::l2_cache, "bytes")
        .def_readonly("shared_memory_per_block", &DeviceProperties::shared_memory_per_block, "bytes, with the opt-in");
    m.def("device_properties", &alexkern::device_properties, py::arg("index"));
}
