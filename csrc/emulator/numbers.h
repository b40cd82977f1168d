// Conversions between float and the bits of fp16, bf16 and tf32. All round to nearest, ties to even, except tf32's,
// which rounds ties away from zero (cvt.rna).
#pragma once

#include <cstdint>

#include "intrinsics.h"

namespace emulator {

inline float float_from_bf16(std::uint16_t bits) { return bit_cast<float>(static_cast<std::uint32_t>(bits) << 16); }

inline std::uint16_t bf16_from_float(float value) {
    const std::uint32_t bits = bit_cast<std::uint32_t>(value);
    if (value != value) return 0x7fff;  // the GPU's one NaN
    return static_cast<std::uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

inline float float_from_fp16(std::uint16_t bits) {
    const std::uint32_t sign = static_cast<std::uint32_t>(bits & 0x8000) << 16;
    const std::uint32_t magnitude = static_cast<std::uint32_t>(bits & 0x7fff) << 13;
    // Multiplying by 2^112 moves the exponent's bias and normalises what was subnormal.
    std::uint32_t scaled = bit_cast<std::uint32_t>(bit_cast<float>(magnitude) * 0x1p112f);
    if (magnitude >= 0x0f800000u) scaled |= 0x7f800000u;  // infinity, NaN
    return bit_cast<float>(sign | scaled);
}

inline std::uint16_t fp16_from_float(float value) {
    const std::uint32_t bits = bit_cast<std::uint32_t>(value);
    const std::uint16_t sign = static_cast<std::uint16_t>(bits >> 16 & 0x8000);
    const std::uint32_t magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) return 0x7fff;                                      // NaN
    if (magnitude >= 0x477ff000u) return static_cast<std::uint16_t>(sign | 0x7c00);  // 65520 and more: infinity
    if (magnitude < 0x38800000u) {                                                   // below 2^-14: subnormal
        const float shifted = bit_cast<float>(magnitude) + 0.5f;                     // 0.5's last bit is 2^-24
        return static_cast<std::uint16_t>(sign | (bit_cast<std::uint32_t>(shifted) - 0x3f000000u));
    }
    const std::uint32_t rounded = magnitude - 0x38000000u + 0xfff + (magnitude >> 13 & 1);
    return static_cast<std::uint16_t>(sign | rounded >> 13);
}

inline std::uint32_t tf32_from_float(float value) {
    const std::uint32_t bits = bit_cast<std::uint32_t>(value);
    if ((bits & 0x7f800000u) == 0x7f800000u) return value != value ? 0x7fffffffu : bits;
    return (bits + 0x1000u) & ~0x1fffu;
}

}  // namespace emulator
