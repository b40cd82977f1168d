// Warp-wide matrix instructions. Every lane of a full warp executes them together.
#pragma once

#include <cstdint>

namespace emulator {

// ldmatrix.sync.aligned.m8n8.x{1,2,4}{.trans}.shared.b16: lane L gives the address of row L % 8 of matrix L / 8.
void load_matrices(std::uint32_t* registers, int matrices, bool transposed, std::uint32_t row_address);

// stmatrix.sync.aligned.m8n8.x4.shared.b16, likewise.
void store_matrices(std::uint32_t row_address, const std::uint32_t (&registers)[4]);

// mma.sync.aligned, row.col, fp32 accumulation: d = a b + c.
enum class Element { fp16, bf16 };
void multiply_m16n8k16(Element element, float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2],
                       const float (&c)[4]);
void multiply_m16n8k8_tf32(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2],
                           const float (&c)[4]);

}  // namespace emulator
