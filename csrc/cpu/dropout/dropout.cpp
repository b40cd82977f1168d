// Philox4x32-10 with a block in every 64-bit lane: a word in the lower half, where the multiplication reads it; what a
// product leaves in the upper half meets nothing that reads it. Ten rounds are 60 instructions for 2 LANES elements,
// each waiting for the one before it: CHAINS of them side by side keep the processor busy.
#include "dropout.h"

#include "../parallel.h"
#include "../simd.h"

namespace alexkern::dropout {

namespace {

using namespace ALEXKERN_ISA;

constexpr int STEP = 2 * LANES;  // elements of LANES / 2 blocks
constexpr int CHAINS = 4;        // steps that are drawn together
constexpr int UNIT = 128;        // elements that go to one thread at least: whole chains of all instruction sets

struct Keys {
    std::uint64_t first[10], second[10];

    explicit Keys(std::uint64_t seed) {
        for (std::uint32_t round = 0; round < 10; ++round) {
            first[round] = static_cast<std::uint32_t>(seed) + round * 0x9E3779B9u;
            second[round] = static_cast<std::uint32_t>(seed >> 32) + round * 0xBB67AE85u;
        }
    }
};

// The words of COUNT * STEP elements, from the block `counter` on.
template <int COUNT>
inline void draw(const Keys& keys, std::uint64_t counter, Words* words) {
    Longs c0[COUNT], c1[COUNT], c2[COUNT] = {}, c3[COUNT] = {};
    for (int chain = 0; chain < COUNT; ++chain) {
        for (int i = 0; i < LANES / 2; ++i) c0[chain][i] = i;
        c0[chain] += counter + static_cast<std::uint64_t>(chain * (LANES / 2));
        c1[chain] = c0[chain] >> 32;
    }
#pragma GCC unroll 10
    for (int round = 0; round < 10; ++round) {
#pragma GCC unroll 4
        for (int chain = 0; chain < COUNT; ++chain) {
            const Longs one = multiply_low(c0[chain], 0xD2511F53u - Longs{});
            const Longs two = multiply_low(c2[chain], 0xCD9E8D57u - Longs{});
            c0[chain] = (two >> 32) ^ c1[chain] ^ keys.first[round];
            c2[chain] = (one >> 32) ^ c3[chain] ^ keys.second[round];
            c1[chain] = two;
            c3[chain] = one;
        }
    }
    constexpr std::uint64_t word = 0xFFFFFFFFu;
#pragma GCC unroll 4
    for (int chain = 0; chain < COUNT; ++chain) {
        const Interleaved both =
            interleave((c0[chain] & word) | (c1[chain] << 32), (c2[chain] & word) | (c3[chain] << 32));
        words[2 * chain] = Words(both.low);
        words[2 * chain + 1] = Words(both.high);
    }
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

template <typename T, bool RELU>
void drop_all(const Call& call) {
    const T* input = static_cast<const T*>(call.input);
    T* output = static_cast<T*>(call.output);
    const Keys keys(call.seed);
    const Words limit = static_cast<std::uint32_t>(call.limit) - Words{};  // for p = 1 all are kept, times 0
    const Floats scale = all(call.scale);
    parallel(call.threads, (call.count + UNIT - 1) / UNIT, UNIT, [&](std::int64_t begin, std::int64_t end) {
        const std::int64_t stop = end * UNIT < call.count ? end * UNIT : call.count;
        std::int64_t i = begin * UNIT;
        for (; i + UNIT <= stop; i += UNIT) {
            Words words[UNIT / LANES];
#pragma GCC unroll 4
            for (int at = 0; at < UNIT; at += CHAINS * STEP) {
                draw<CHAINS>(keys, call.offset + static_cast<std::uint64_t>((i + at) / 4), words + at / LANES);
            }
            std::uint64_t passing[UNIT / 64] = {}, some = 0;
#pragma GCC unroll 32
            for (int at = 0; at < UNIT; at += LANES) {
                const Floats value = load(input + i + at);
                store(output + i + at, drop<RELU>(value, words[at / LANES], limit, scale, some));
                passing[at / 64] |= some << at % 64;
            }
            if (RELU && call.mask) {
                for (int at = 0; at < UNIT; at += 64) store_bits(call.mask + (i + at) / 8, passing[at / 64], 64);
            }
        }
        for (; i < stop; i += STEP) {
            Words words[2];
            draw<1>(keys, call.offset + static_cast<std::uint64_t>(i / 4), words);
            std::uint64_t passing = 0, some = 0;
            for (int half = 0; half < 2 && i + half * LANES < stop; ++half) {
                const std::int64_t at = i + half * LANES;
                const int count = stop - at < LANES ? static_cast<int>(stop - at) : LANES;
                const Floats value = load_part(input + at, count);
                store_part(output + at, drop<RELU>(value, words[half], limit, scale, some), count);
                passing |= some << half * LANES;
            }
            const std::int64_t left = stop - i;
            if (RELU && call.mask) store_bits(call.mask + i / 8, passing, left < STEP ? static_cast<int>(left) : STEP);
        }
    });
}

template <typename T>
void mask_all(const Masked& call) {
    const T* grad = static_cast<const T*>(call.grad);
    T* output = static_cast<T*>(call.output);
    Ints places;
    for (int i = 0; i < LANES; ++i) places[i] = 1 << i;
    const std::int64_t bytes = (call.count + 7) / 8;
    parallel(call.threads, (call.count + UNIT - 1) / UNIT, UNIT, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t i = begin * UNIT; i < end * UNIT && i < call.count; i += LANES) {
            std::int32_t bits = call.mask[i / 8] >> i % 8;
            if (LANES > 8 && i / 8 + 1 < bytes) bits |= call.mask[i / 8 + 1] << 8;
            const Floats value = load_some(grad + i, call.count - i) * call.scale;
            store_some(output + i, (all(bits) & places) != 0 ? value : Floats{}, call.count - i);
        }
    });
}

}  // namespace

template <>
void run<Isa::ALEXKERN_ISA>(const Call& call) {
    ran(call.relu ? "ReLU and dropout, " ALEXKERN_ISA_NAME : "dropout, " ALEXKERN_ISA_NAME);
    on_numbers(call.bfloat16, [&](auto number) {
        using T = decltype(number);
        call.relu ? drop_all<T, true>(call) : drop_all<T, false>(call);
    });
}

template <>
void run<Isa::ALEXKERN_ISA>(const Masked& call) {
    ran("dropout's mask, " ALEXKERN_ISA_NAME);
    on_numbers(call.bfloat16, [&](auto number) { mask_all<decltype(number)>(call); });
}

}  // namespace alexkern::dropout
