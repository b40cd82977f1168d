#include "isa.h"

#include <stdexcept>

namespace alexkern {

const char* last_kernel = "";

namespace {

struct Named {
    Isa isa;
    const char* name;
};

std::vector<Named> here() {
    std::vector<Named> found{{Isa::portable, "portable"}};
#ifdef ALEXKERN_X86
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) found.push_back({Isa::avx2, "avx2"});
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl")) {
        found.push_back({Isa::avx512, "avx512"});
        if (__builtin_cpu_supports("avx512bf16")) found.push_back({Isa::avx512bf16, "avx512bf16"});
    }
#endif
    return found;
}

Named in_use = here().back();

}  // namespace

Isa isa() { return in_use.isa; }
const char* isa_name() { return in_use.name; }

bool amd() {
#ifdef ALEXKERN_X86
    return __builtin_cpu_is("amd");
#else
    return false;
#endif
}

std::vector<std::string> isas() {
    std::vector<std::string> names;
    for (const Named& one : here()) names.emplace_back(one.name);
    return names;
}

void use(const std::string& isa) {
    for (const Named& one : here()) {
        if (isa == one.name) {
            in_use = one;
            return;
        }
    }
    throw std::invalid_argument("no kernels of instruction set " + isa + " here");
}

}  // namespace alexkern
