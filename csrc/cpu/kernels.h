// The kernels of one instruction set, and the choice of the set. kernels.cpp makes a table of each, isa.cpp chooses.
#pragma once

#include <string>
#include <vector>

#include "augment/augment.h"
#include "dropout/dropout.h"
#include "local_response_norm/local_response_norm.h"
#include "max_pool2d/max_pool2d.h"

namespace alexkern {

struct Kernels {
    const char* isa;
    void (*max_pool2d_forward)(const max_pool2d::Forward&);
    void (*max_pool2d_backward)(const max_pool2d::Backward&);
    std::int64_t (*max_pool2d_workspace)(const max_pool2d::Windows&);
    void (*dropout)(const dropout::Call&);
    void (*augment)(const augment::Call&);
    std::int64_t (*augment_workspace)(const augment::Call&);
    void (*local_response_norm)(const local_response_norm::Call&);
    std::int64_t (*local_response_norm_workspace)(const local_response_norm::Call&);
};

// Those in use: at first the last of `isas`.
const Kernels& kernels();

// The instruction sets that this processor has and the module was built for.
std::vector<std::string> isas();

// Take these from now on. Throws std::invalid_argument for a name that is not one of `isas`.
void use(const std::string& isa);

extern const char* last_kernel;  // simd.h says what

}  // namespace alexkern
