// Which of the tables serves. ALEXKERN_X86: they were compiled for AVX2 and AVX-512 as well.
#include <stdexcept>

#include "kernels.h"

namespace alexkern {

namespace portable {
extern const Kernels kernels;
}
#ifdef ALEXKERN_X86
namespace avx2 {
extern const Kernels kernels;
}
namespace avx512 {
extern const Kernels kernels;
}
#endif

extern const char* last_kernel;
const char* last_kernel = "";

namespace {

// The best last.
std::vector<const Kernels*> tables() {
    std::vector<const Kernels*> found{&portable::kernels};
#ifdef ALEXKERN_X86
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) found.push_back(&avx2::kernels);
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl")) {
        found.push_back(&avx512::kernels);
    }
#endif
    return found;
}

const Kernels* in_use = tables().back();

}  // namespace

const Kernels& kernels() { return *in_use; }

std::vector<std::string> isas() {
    std::vector<std::string> names;
    for (const Kernels* table : tables()) names.emplace_back(table->isa);
    return names;
}

void use(const std::string& isa) {
    for (const Kernels* table : tables()) {
        if (isa == table->isa) {
            in_use = table;
            return;
        }
    }
    throw std::invalid_argument("no kernels of instruction set " + isa + " here");
}

}  // namespace alexkern
