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
    std::uint32_t multiplier = 0, shift = 0;  // n / divisor is 2 n * multiplier >> (32 + shift) for n below 2**31

    Divider() : Divider(1) {}
    explicit Divider(std::int64_t divisor) : divisor(divisor) {
        if (divisor < 1 || divisor > 0x7fffffff) return;
        while ((std::int64_t{1} << shift) < divisor) ++shift;
        multiplier = static_cast<std::uint32_t>(((std::int64_t{1} << (31 + shift)) + divisor - 1) / divisor);
    }
};

// Takes number % divisor off, of a number below 2**31: returns it, and leaves the quotient.
__device__ __forceinline__ std::uint32_t split_off(std::uint32_t& number, const Divider& by) {
    const std::uint32_t whole = number;
    number = __umulhi(2 * whole, by.multiplier) >> by.shift;
    return whole - number * static_cast<std::uint32_t>(by.divisor);
}

// The same of any index.
__device__ __forceinline__ std::int64_t split_off(std::int64_t& index, const Divider& by) {
    const std::int64_t whole = index;
    if (whole <= 0x7fffffff) {
        auto number = static_cast<std::uint32_t>(whole);
        const std::uint32_t rest = split_off(number, by);
        index = number;
        return rest;
    }
    index = whole / by.divisor;
    return whole - index * by.divisor;
}

// A number as digits, of which a loop's step is as many: advancing is an addition.
struct Digits {
    int inner, middle, outer;

    static __host__ __device__ __forceinline__ Digits of(int number, int inners, int middles) {
        return {number % inners, number / inners % middles, number / inners / middles};
    }

    static __device__ __forceinline__ Digits of(std::uint32_t number, const Divider& inners, const Divider& middles) {
        const auto inner = static_cast<int>(split_off(number, inners));
        const auto middle = static_cast<int>(split_off(number, middles));
        return {inner, middle, static_cast<int>(number)};
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
