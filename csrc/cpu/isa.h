// The instruction sets that a kernel is compiled for, and the one in use. An operator declares a kernel as
//   template <Isa> void forward(const Forward&);
// and defines `template <> void forward<Isa::ALEXKERN_ISA>`, in a source that is compiled for each of them.
#pragma once

#include <string>
#include <type_traits>
#include <vector>

namespace alexkern {

enum class Isa { portable, avx2, avx512, avx512bf16 };

// That in use: at first the last of `isas`.
Isa isa();
const char* isa_name();

// Whether AMD made the processor: the libraries that kernels are measured against run other code there.
bool amd();

// Those that this processor has and the module was built for, the best last.
std::vector<std::string> isas();

// Take this one from now on. Throws std::invalid_argument for a name that is not one of `isas`.
void use(const std::string& isa);

// run(isa), with the one in use as a constant. ALEXKERN_X86: kernels were compiled for those of x86 as well.
template <typename Run>
auto on_isa(const Run& run) {
    switch (isa()) {
#ifdef ALEXKERN_X86
        case Isa::avx512bf16:
            return run(std::integral_constant<Isa, Isa::avx512bf16>());
        case Isa::avx512:
            return run(std::integral_constant<Isa, Isa::avx512>());
        case Isa::avx2:
            return run(std::integral_constant<Isa, Isa::avx2>());
#endif
        default:
            return run(std::integral_constant<Isa, Isa::portable>());
    }
}

extern const char* last_kernel;  // what it was and ran on, such as "max_pool2d forward, NHWC, avx2"

}  // namespace alexkern
