// ldmatrix.sync.aligned.m8n8.x{1,2,4}{.trans}.shared.b16
//
// Loads 8x8 matrices of 16-bit values. Lane L gives the shared address (16-byte aligned) of row L % 8 of matrix L / 8.
// Register j then holds, of matrix j, row L / 4, columns 2 (L % 4) and the next; with .trans, rows 2 (L % 4) and the
// next of column L / 4. The lower index lies in the lower half. Every lane of the warp must execute it.
#pragma once

#include "platform.cuh"

namespace ptx {

__device__ __forceinline__ void ldmatrix_x1(std::uint32_t (&registers)[1], std::uint32_t row_address) {
#ifdef __CUDACC__
    asm volatile("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%0}, [%1];"
                 : "=r"(registers[0])
                 : "r"(row_address)
                 : "memory");
#else
    emulator::load_matrices(registers, 1, false, row_address);
#endif
}

__device__ __forceinline__ void ldmatrix_x2(std::uint32_t (&registers)[2], std::uint32_t row_address) {
#ifdef __CUDACC__
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
                 : "=r"(registers[0]), "=r"(registers[1])
                 : "r"(row_address)
                 : "memory");
#else
    emulator::load_matrices(registers, 2, false, row_address);
#endif
}

__device__ __forceinline__ void ldmatrix_x4(std::uint32_t (&registers)[4], std::uint32_t row_address) {
#ifdef __CUDACC__
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(registers[0]), "=r"(registers[1]), "=r"(registers[2]), "=r"(registers[3])
                 : "r"(row_address)
                 : "memory");
#else
    emulator::load_matrices(registers, 4, false, row_address);
#endif
}

__device__ __forceinline__ void ldmatrix_x1_trans(std::uint32_t (&registers)[1], std::uint32_t row_address) {
#ifdef __CUDACC__
    asm volatile("ldmatrix.sync.aligned.m8n8.x1.trans.shared.b16 {%0}, [%1];"
                 : "=r"(registers[0])
                 : "r"(row_address)
                 : "memory");
#else
    emulator::load_matrices(registers, 1, true, row_address);
#endif
}

__device__ __forceinline__ void ldmatrix_x2_trans(std::uint32_t (&registers)[2], std::uint32_t row_address) {
#ifdef __CUDACC__
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
                 : "=r"(registers[0]), "=r"(registers[1])
                 : "r"(row_address)
                 : "memory");
#else
    emulator::load_matrices(registers, 2, true, row_address);
#endif
}

__device__ __forceinline__ void ldmatrix_x4_trans(std::uint32_t (&registers)[4], std::uint32_t row_address) {
#ifdef __CUDACC__
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(registers[0]), "=r"(registers[1]), "=r"(registers[2]), "=r"(registers[3])
                 : "r"(row_address)
                 : "memory");
#else
    emulator::load_matrices(registers, 4, true, row_address);
#endif
}

}  // namespace ptx
