// wgmma and what goes with it. Every lane of the four warps of a warpgroup executes these.
#pragma once

#include <cstdint>

#include "tensor_core.h"

namespace emulator {

struct WarpgroupOperands {
    std::uint64_t a, b;  // shared-memory descriptors
    bool transposed_a, transposed_b;
};

// wgmma.mma_async.sync.aligned.m64nNk16, fp32 accumulation: d = a b + d, or a b.
void warpgroup_multiply(Element element, unsigned n, float* d, const WarpgroupOperands& operands, bool accumulate);
void warpgroup_fence();
void warpgroup_commit_group();
void warpgroup_wait_group(unsigned newest_still_pending);

void set_max_registers(unsigned count, bool increase);  // setmaxnreg
bool elect_one();                                       // elect.sync of a whole warp

}  // namespace emulator
