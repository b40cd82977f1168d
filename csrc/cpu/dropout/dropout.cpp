// Philox4x32-10 with a block in every 64-bit lane: a word in the lower half, where the multiplication reads it; what a
// product leaves in the upper half meets nothing that reads it. Ten rounds are 80 instructions for 2 LANES elements,
// and the blocks of one step do not wait for those of another.
#include "dropout.h"

#include "../parallel.h"
#include "../simd.h"

namespace alexkern::ALEXKERN_ISA {

using alexkern::dropout::Call;

void dropout(const Call& call);

namespace {

constexpr int STEP = 2 * LANES;  // elements of LANES / 2 blocks
constexpr int UNIT = 64;         // elements that go to one thread at least: whole steps of all instruction sets

struct Keys {
    std::uint64_t first[10], second[10];

    explicit Keys(std::uint64_t seed) {
        for (std::uint32_t round = 0; round < 10; ++round) {
            first[round] = static_cast<std::uint32_t>(seed) + round * 0x9E3779B9u;
            second[round] = static_cast<std::uint32_t>(seed >> 32) + round * 0xBB67AE85u;
        }
    }
};

// The words of STEP elements, from the block `counter` on.
inline void draw(const Keys& keys, std::uint64_t counter, Words (&words)[2]) {
    Longs count = {};
    for (int i = 0; i < LANES / 2; ++i) count[i] = i;
    count += counter;
    Longs c0 = count, c1 = count >> 32, c2 = {}, c3 = {};
#pragma GCC unroll 10
    for (int round = 0; round < 10; ++round) {
        const Longs one = multiply_low(c0, 0xD2511F53u - Longs{}), two = multiply_low(c2, 0xCD9E8D57u - Longs{});
        c0 = (two >> 32) ^ c1 ^ keys.first[round];
        c2 = (one >> 32) ^ c3 ^ keys.second[round];
        c1 = two;
        c3 = one;
    }
    constexpr std::uint64_t word = 0xFFFFFFFFu;
    const Interleaved both = interleave((c0 & word) | (c1 << 32), (c2 & word) | (c3 << 32));
    words[0] = Words(both.low);
    words[1] = Words(both.high);
}

template <bool RELU>
void run(const Call& call) {
    const Keys keys(call.seed);
    const Words limit = static_cast<std::uint32_t>(call.limit) - Words{};  // for p = 1 all are kept, times 0
    const Floats scale = all(call.scale), zero = {};
    parallel(call.threads, (call.count + UNIT - 1) / UNIT, UNIT, [&](std::int64_t begin, std::int64_t end) {
        const std::int64_t stop = end * UNIT < call.count ? end * UNIT : call.count;
        for (std::int64_t i = begin * UNIT; i < stop; i += STEP) {
            Words words[2];
            draw(keys, call.offset + static_cast<std::uint64_t>(i / 4), words);
            for (int half = 0; half < 2; ++half) {
                const std::int64_t first = i + half * LANES, left = stop - first;
                if (left <= 0) break;
                const bool whole = left >= LANES;
                Floats value = whole ? load<Floats>(call.input + first)
                                     : load_part<Floats>(call.input + first, static_cast<int>(left), 4);
                if (RELU) value = value < zero ? zero : value;
                value *= words[half] >= limit ? scale : zero;
                if (whole) {
                    store(call.output + first, value);
                } else {
                    store_part(call.output + first, value, static_cast<int>(left), 4);
                }
            }
        }
    });
}

}  // namespace

void dropout(const Call& call) {
    ran(call.relu ? "ReLU and dropout, " ALEXKERN_ISA_NAME : "dropout, " ALEXKERN_ISA_NAME);
    call.relu ? run<true>(call) : run<false>(call);
}

}  // namespace alexkern::ALEXKERN_ISA
