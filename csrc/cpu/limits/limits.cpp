#include "limits.h"

#include "../parallel.h"
#include "../simd.h"

namespace alexkern::ALEXKERN_ISA {

std::int64_t multiply_add(const limits::Arithmetic& call);
void stream_through(const limits::Stream& call);

namespace {

constexpr int CHAINS = 12;  // that do not wait for one another: more than two units of four cycles hold
constexpr int PIECES = 8;   // a thread

// What the compiler has to compute, as somebody might read it.
template <int COUNT>
inline void keep(const Floats (&values)[COUNT]) {
    asm volatile("" : : "m"(values));
}

}  // namespace

// The operations that it carried out.
std::int64_t multiply_add(const limits::Arithmetic& call) {
    parallel(call.threads, PIECES * call.threads, GRAIN, [&](std::int64_t begin, std::int64_t end) {
        Floats sums[CHAINS] = {};
        const Floats factor = all(0.5f);
        for (std::int64_t round = begin * call.rounds; round < end * call.rounds; ++round) {
#pragma GCC unroll 12
            for (int i = 0; i < CHAINS; ++i) sums[i] = sums[i] * factor + factor;
        }
        keep(sums);
    });
    return 2 * PIECES * call.threads * call.rounds * CHAINS * LANES;
}

void stream_through(const limits::Stream& call) {
    constexpr std::int64_t line = 16;
    parallel(call.threads, call.count / line, line, [&](std::int64_t begin, std::int64_t end) {
        Floats sums[line / LANES] = {};
        for (std::int64_t i = begin * line; i < end * line; i += line) {
            for (int j = 0; j < line / LANES; ++j) {
                const Floats value = load<Floats>(call.from + i + j * LANES);
                if (call.to) {
                    stream(call.to + i + j * LANES, value);
                } else {
                    sums[j] += value;
                }
            }
        }
        keep(sums);
        end_of_stream();
    });
}

}  // namespace alexkern::ALEXKERN_ISA
