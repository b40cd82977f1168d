// stmatrix.sync.aligned.m8n8.x4.shared.b16, for sm_90 and later: ldmatrix the other way
//
// Stores 8x8 matrices of 16-bit values. Lane L gives the shared address (16-byte aligned) of row L % 8 of matrix L / 8.
// Register j holds, of matrix j, row L / 4, columns 2 (L % 4) and the next, the lower index in the lower half: as a
// product leaves its sums. Every lane of the warp must execute it.
#pragma once

#include "platform.cuh"

namespace ptx {

__device__ __forceinline__ void stmatrix_x4(std::uint32_t row_address, const std::uint32_t (&registers)[4]) {
#ifdef __CUDACC__
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(row_address),
                 "r"(registers[0]), "r"(registers[1]), "r"(registers[2]), "r"(registers[3])
                 : "memory");
#else
    emulator::store_matrices(row_address, registers);
#endif
}

}  // namespace ptx
