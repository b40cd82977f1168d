// The Python face of the kernels for the host's processor, alexkern._cpu: raw pointers and sizes, no torch header.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "augment/bind.h"
#include "dropout/bind.h"
#include "kernels.h"
#include "local_response_norm/bind.h"
#include "max_pool2d/bind.h"
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
    m.attr("isas") = alexkern::isas();  // the best last
    m.def("isa", [] { return alexkern::kernels().isa; });
    m.def("use", &alexkern::use);
    m.def("last_kernel", [] { return alexkern::last_kernel; });
    alexkern::bind_augment(m);
    alexkern::bind_dropout(m);
    alexkern::bind_local_response_norm(m);
    alexkern::bind_max_pool2d(m);
    alexkern::bind_winograd(m);
}
