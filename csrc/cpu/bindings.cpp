// The Python face of the kernels for the host's processor, alexkern._cpu: raw pointers and sizes, no torch header. The
// build includes every folder's bind.h before it.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "../binding.h"
#include "dlpack.h"
#include "isa.h"

#ifdef __clang__
#define COMPILER "Clang " __clang_version__
#else
#define COMPILER "GCC " __VERSION__
#endif

PYBIND11_MODULE(ALEXKERN_MODULE, m) {
    m.doc() = "alexkern's kernels for the host's processor";
    m.attr("__version__") = ALEXKERN_VERSION;
    m.attr("sources") = ALEXKERN_SOURCES;
    m.attr("compiler") = COMPILER;
    m.attr("geometry") = alexkern::geometry_fields();
    m.attr("isas") = alexkern::isas();  // the best last
    m.attr("amd") = alexkern::amd();
    m.def("isa", &alexkern::isa_name);
    m.def("use", &alexkern::use);
    m.def("last_kernel", [] { return alexkern::last_kernel; });  // since it was forgotten, or ""
    m.def("forget_kernel", [] { alexkern::last_kernel = ""; });
    alexkern::bind_memory(m);
    alexkern::Binding::add_all(m);
}
