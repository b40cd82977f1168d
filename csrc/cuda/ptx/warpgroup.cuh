// What a warpgroup (four warps, the first a multiple of four) does together beside wgmma: share out registers.
#pragma once

#include "platform.cuh"

namespace ptx {

// setmaxnreg: by all warps of a warpgroup. The block has the registers that it was launched with; who takes more waits
// until others have given them back.
template <int kRegisters>
__device__ __forceinline__ void give_registers_back() {
#ifdef __CUDACC__
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
#else
    emulator::set_max_registers(kRegisters, false);
#endif
}

template <int kRegisters>
__device__ __forceinline__ void take_registers() {
#ifdef __CUDACC__
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
#else
    emulator::set_max_registers(kRegisters, true);
#endif
}

// True in one lane of the warp, always the same one, executed by all of them.
__device__ __forceinline__ bool elect_one() {
#ifdef __CUDACC__
    std::uint32_t elected;
    asm volatile(
        "{\n"
        ".reg .pred is_elected;\n"
        "elect.sync _|is_elected, 0xffffffff;\n"
        "selp.u32 %0, 1, 0, is_elected;\n"
        "}"
        : "=r"(elected));
    return elected != 0;
#else
    return emulator::elect_one();
#endif
}

}  // namespace ptx
