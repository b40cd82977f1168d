// The Python face of the kernels for the host's processor, alexkern._cpu: raw pointers and sizes, no torch header.
#include <pybind11/pybind11.h>

#include "winograd/bind.h"

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
    alexkern::bind_winograd(m);
}
