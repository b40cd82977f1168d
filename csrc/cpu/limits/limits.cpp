#include "limits.h"

#include "../parallel.h"
#include "../simd.h"

namespace alexkern::limits {

namespace {

using namespace ALEXKERN_ISA;

constexpr int CHAINS = 12;  // that do not wait for one another: more than two units of four cycles hold
constexpr int PIECES = 8;   // a thread
constexpr std::int64_t LINE = 16;

}  // namespace

template <>
std::int64_t multiply_add<Isa::ALEXKERN_ISA>(std::int64_t rounds, int threads) {
    ran("multiply_add, " ALEXKERN_ISA_NAME);
    parallel(threads, PIECES * threads, GRAIN, [&](std::int64_t begin, std::int64_t end) {
        Floats sums[CHAINS];
        for (int i = 0; i < CHAINS; ++i) sums[i] = all(static_cast<float>(i + 2));  // equal ones would be computed once
        const Floats factor = all(0.5f);
        for (std::int64_t round = begin * rounds; round < end * rounds; ++round) {
#pragma GCC unroll 12
            for (int i = 0; i < CHAINS; ++i) sums[i] = sums[i] * factor + factor;
        }
        asm volatile("" : : "m"(sums));  // as if somebody read them
    });
    return 2 * PIECES * threads * rounds * CHAINS * LANES;
}

template <>
void stream_through<Isa::ALEXKERN_ISA>(const float* from, float* to, std::int64_t count, int threads) {
    ran("stream_through, " ALEXKERN_ISA_NAME);
    parallel(threads, count / LINE, LINE, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t i = begin * LINE; i < end * LINE; i += LANES) stream(to + i, load<Floats>(from + i));
        end_of_stream();
    });
}

}  // namespace alexkern::limits
