// Philox4x32-10 with a block in every 64-bit lane: a word in the lower half, where the multiplication reads it; what a
// product leaves in the upper half meets nothing that reads it. Ten rounds are 80 instructions for 2 LANES elements,
// and the blocks of one step do not wait for those of another.
#include "dropout.h"

#include "../parallel.h"
#include "../simd.h"

namespace alexkern::dropout {

namespace {

using namespace ALEXKERN_ISA;

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
inline void draw(const Keys& keys, std::uint64_t counter, Words* words) {
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

// `passing`: a bit for each lane that was neither clipped nor dropped, where a ReLU comes first.
template <bool RELU>
inline Floats drop(Floats value, Words words, Words limit, Floats scale, std::uint64_t& passing) {
    const Floats zero = {}, factor = words >= limit ? scale : zero;
    if (RELU) {
        passing = bits((factor != zero) & ~(value <= zero));
        value = value < zero ? zero : value;
    }
    return value * factor;
}

inline void store_bits(std::uint8_t* mask, std::uint64_t passing, int count) {
    for (int i = 0; 8 * i < count; ++i) mask[i] = static_cast<std::uint8_t>(passing >> 8 * i);
}

template <bool RELU>
void drop_all(const Call& call) {
    const Keys keys(call.seed);
    const Words limit = static_cast<std::uint32_t>(call.limit) - Words{};  // for p = 1 all are kept, times 0
    const Floats scale = all(call.scale);
    parallel(call.threads, (call.count + UNIT - 1) / UNIT, UNIT, [&](std::int64_t begin, std::int64_t end) {
        const std::int64_t stop = end * UNIT < call.count ? end * UNIT : call.count;
        std::int64_t i = begin * UNIT;
        for (; i + UNIT <= stop; i += UNIT) {
            Words words[UNIT / LANES];
#pragma GCC unroll 8
            for (int step = 0; step < UNIT / STEP; ++step) {
                draw(keys, call.offset + static_cast<std::uint64_t>(i / 4 + step * (STEP / 4)), words + 2 * step);
            }
            std::uint64_t passing = 0, some = 0;
#pragma GCC unroll 16
            for (int j = 0; j < UNIT / LANES; ++j) {
                const std::int64_t at = i + j * LANES;
                store(call.output + at, drop<RELU>(load<Floats>(call.input + at), words[j], limit, scale, some));
                passing |= some << j * LANES;
            }
            if (RELU && call.mask) store_bits(call.mask + i / 8, passing, UNIT);
        }
        for (; i < stop; i += STEP) {
            Words words[2];
            draw(keys, call.offset + static_cast<std::uint64_t>(i / 4), words);
            std::uint64_t passing = 0, some = 0;
            for (int half = 0; half < 2 && i + half * LANES < stop; ++half) {
                const std::int64_t at = i + half * LANES;
                const int count = stop - at < LANES ? static_cast<int>(stop - at) : LANES;
                const Floats value = load_part(call.input + at, count);
                store_part(call.output + at, drop<RELU>(value, words[half], limit, scale, some), count);
                passing |= some << half * LANES;
            }
            const std::int64_t left = stop - i;
            if (RELU && call.mask) store_bits(call.mask + i / 8, passing, left < STEP ? static_cast<int>(left) : STEP);
        }
    });
}

}  // namespace

template <>
void run<Isa::ALEXKERN_ISA>(const Call& call) {
    ran(call.relu ? "ReLU and dropout, " ALEXKERN_ISA_NAME : "dropout, " ALEXKERN_ISA_NAME);
    call.relu ? drop_all<true>(call) : drop_all<false>(call);
}

}  // namespace alexkern::dropout
