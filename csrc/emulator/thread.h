// The thread that is running: where it stands in its grid, and how it reports that something is wrong.
#pragma once

#include <string>

#include "types.h"

namespace emulator {

struct Coordinates {
    uint3 thread, block;
    dim3 block_dim, grid_dim;
};

// A plain pointer: a thread_local object with a constructor would be checked at every use.
extern __thread Coordinates* current __attribute__((tls_model("initial-exec")));

// What a thread is executing, for messages, and to tell whether the lanes of a warp execute the same.
struct Instruction {
    const char* name;
    const char* file = nullptr;  // null where the call site is not known
    int line = 0;
    unsigned barrier = 0, count = 0;  // of a named barrier
};

// Ends the launch with an emulator::Error that names the kernel, the block and the thread.
[[noreturn]] void fail(const std::string& what);

}  // namespace emulator

#define threadIdx (::emulator::current->thread)
#define blockIdx (::emulator::current->block)
#define blockDim (::emulator::current->block_dim)
#define gridDim (::emulator::current->grid_dim)

constexpr int warpSize = 32;

[[noreturn]] inline void __trap() { emulator::fail("__trap()"); }
