// The kernels of one instruction set, and the choice of the set. kernels.cpp makes a table of each, isa.cpp chooses.
#pragma once

#include <string>
#include <vector>

#include "dropout/dropout.h"
#include "limits/limits.h"
#include "linear_relu_dropout/linear_relu_dropout.h"
#include "local_response_norm/local_response_norm.h"
#include "max_pool2d/max_pool2d.h"

namespace alexkern {

struct Kernels {
    const char* isa;
    void (*max_pool2d_forward)(const max_pool2d::Forward&);
    void (*max_pool2d_backward)(const max_pool2d::Backward&);
    std::int64_t (*max_pool2d_workspace)(const max_pool2d::Windows&);
    void (*dropout)(const dropout::Call&);
    void (*linear_relu_dropout_forward)(const linear_relu_dropout::Forward&);
    void (*linear_relu_dropout_backward)(const linear_relu_dropout::Backward&);
    std::int64_t (*linear_relu_dropout_workspace)(const linear_relu_dropout::Sizes&, int);
    void (*local_response_norm)(const local_response_norm::Call&);
    std::int64_t (*local_response_norm_workspace)(const local_response_norm::Call&);
    std::int64_t (*multiply_add)(const limits::Arithmetic&);
    void (*stream_through)(const limits::Stream&);
};

// Those in use: at first the last of `isas`.
const Kernels& kernels();

// The instruction sets that this processor has and the module was built for.
std::vector<std::string> isas();

// Take these from now on. Throws std::invalid_argument for a name that is not one of `isas`.
void use(const std::string& isa);

extern const char* last_kernel;  // simd.h says what

}  // namespace alexkern
