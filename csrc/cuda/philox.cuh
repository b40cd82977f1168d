// Philox4x32-10, dropout's one source of randomness: bit by bit what alexkern/backends/torch/philox.py defines.
// Salmon, Moraes, Dror, Shaw: Parallel Random Numbers: As Easy as 1, 2, 3 (SC 2011), section 3.4.
#pragma once

#include "ptx/platform.cuh"

namespace alexkern::philox {

struct Block {
    std::uint32_t words[4];
};

// The block with key = seed and counter (low, high, 0, 0) of `counter`.
__device__ __forceinline__ Block block(std::uint64_t seed, std::uint64_t counter) {
    constexpr std::uint32_t kMultiplier0 = 0xD2511F53u, kMultiplier1 = 0xCD9E8D57u;
    constexpr std::uint32_t kWeyl0 = 0x9E3779B9u, kWeyl1 = 0xBB67AE85u;
    std::uint32_t key0 = static_cast<std::uint32_t>(seed), key1 = static_cast<std::uint32_t>(seed >> 32);
    std::uint32_t c0 = static_cast<std::uint32_t>(counter), c1 = static_cast<std::uint32_t>(counter >> 32);
    std::uint32_t c2 = 0, c3 = 0;
#pragma unroll
    for (int round = 0; round < 10; ++round) {
        // Halves asked for by themselves: of a product in 64 bits nvcc makes an addition more, of 0.
        const std::uint32_t low0 = c0 * kMultiplier0, high0 = __umulhi(c0, kMultiplier0);
        const std::uint32_t low1 = c2 * kMultiplier1, high1 = __umulhi(c2, kMultiplier1);
        c0 = high1 ^ c1 ^ key0;
        c2 = high0 ^ c3 ^ key1;
        c1 = low1;
        c3 = low0;
        key0 += kWeyl0;
        key1 += kWeyl1;
    }
    return {{c0, c1, c2, c3}};
}

// Which elements are kept, and what they are then multiplied by.
struct Rule {
    const std::int64_t*
        seed;             // [2] on the device: seed and offset, so that a replayed graph draws anew; null: keep all
    std::uint64_t limit;  // floor(p * 2**32): kept where the word is not below it
    float scale;          // 1 / (1 - p), and 0 for p = 1
};

// Where a rule's stream begins: what its seed points to, for a kernel that reads it once and draws often.
struct Start {
    std::uint64_t seed, offset;
};

__device__ __forceinline__ Start start(const Rule& rule) {
    return {static_cast<std::uint64_t>(rule.seed[0]), static_cast<std::uint64_t>(rule.seed[1])};
}

// For the elements first to first + kCount - 1 of a dense tensor, `first` a multiple of 4: the scale, or 0.
template <int kCount>
__device__ __forceinline__ void factors(const Rule& rule, const Start& start, std::int64_t first,
                                        float (&factor)[kCount]) {
    static_assert(kCount % 4 == 0, "a block has four words");
    // In 32 bits, with one comparison a word: the limit itself, 2**32 for p = 1, has no place there.
    const bool all = rule.limit == 0;
    const std::uint32_t last_dropped = static_cast<std::uint32_t>(rule.limit - 1);
#pragma unroll
    for (int i = 0; i < kCount; i += 4) {
        const Block drawn = block(start.seed, start.offset + static_cast<std::uint64_t>((first + i) / 4));
#pragma unroll
        for (int j = 0; j < 4; ++j) factor[i + j] = all || drawn.words[j] > last_dropped ? rule.scale : 0.0f;
    }
}

template <int kCount>
__device__ __forceinline__ void factors(const Rule& rule, std::int64_t first, float (&factor)[kCount]) {
    factors(rule, start(rule), first, factor);
}

// The mask of eight elements, a bit each: whether a ReLU's value was neither clipped nor dropped.
__device__ __forceinline__ std::uint8_t passing(const float (&value)[8], const float (&factor)[8]) {
    unsigned bits = 0;
#pragma unroll
    for (int i = 0; i < 8; ++i) bits |= factor[i] != 0.0f && !(value[i] <= 0.0f) ? 1u << i : 0u;
    return static_cast<std::uint8_t>(bits);
}

}  // namespace alexkern::philox
