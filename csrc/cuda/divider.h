// Division: by a number known at the launch it is a multiplication and a shift instead of some twenty instructions.
#pragma once

#include <cstdint>

#include "ptx/platform.cuh"

namespace alexkern {

template <typename T>
constexpr __host__ __device__ T divide_up(T a, T b) {
    return (a + b - 1) / b;
}

struct Divider {
    std::int64_t divisor;
    std::uint32_t multiplier = 0, shift = 0;  // n / divisor is n * multiplier >> (32 + shift) for n below 2**31

    explicit Divider(std::int64_t divisor) : divisor(divisor) {
        if (divisor <= 1 || divisor > 0x7fffffff) return;
        while ((std::int64_t{2} << shift) < divisor) ++shift;
        multiplier = static_cast<std::uint32_t>(((std::int64_t{1} << (32 + shift)) + divisor - 1) / divisor);
    }
};

// Takes index % divisor off: returns it, and leaves the quotient.
__device__ __forceinline__ std::int64_t split_off(std::int64_t& index, const Divider& by) {
    const std::int64_t whole = index;
    if (whole <= 0x7fffffff) {
        const auto n = static_cast<std::uint32_t>(whole);
        const std::uint32_t quotient = by.divisor == 1 ? n : __umulhi(n, by.multiplier) >> by.shift;
        index = quotient;
        return n - quotient * static_cast<std::uint32_t>(by.divisor);
    }
    index = whole / by.divisor;
    return whole - index * by.divisor;
}

// A number as digits, of which a loop's step is as many: advancing is an addition.
struct Digits {
    int inner, middle, outer;

    static __device__ __forceinline__ Digits of(int number, int inners, int middles) {
        return {number % inners, number / inners % middles, number / inners / middles};
    }

    __device__ __forceinline__ void advance(const Digits& step, int inners, int middles) {
        inner += step.inner;
        middle += step.middle;
        outer += step.outer;
        if (inner >= inners) {
            inner -= inners;
            ++middle;
        }
        if (middle >= middles) {
            middle -= middles;
            ++outer;
        }
    }
};

}  // namespace alexkern
