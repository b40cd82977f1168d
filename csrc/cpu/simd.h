// Vectors of the widest registers that a source is compiled for: GCC's and Clang's vector extensions, in which
// operators work lane by lane and a comparison gives -1 or 0. What they have no word for, or bad code, stands below as
// intrinsics.
//
// Every source that includes this is compiled once for each instruction set (CMakeLists.txt), with ALEXKERN_ISA its
// name. All that such a source defines lies in that namespace, in an anonymous one, or is a specialisation for that
// Isa: two functions of one name, of which the linker keeps one, would be instructions that another processor does not
// have. Hence no functions of the standard library either.
#pragma once

#include <cstdint>

#include "index.h"
#include "isa.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define ALEXKERN_TEXT_OF(name) #name
#define ALEXKERN_TEXT(name) ALEXKERN_TEXT_OF(name)
#define ALEXKERN_ISA_NAME ALEXKERN_TEXT(ALEXKERN_ISA)

namespace alexkern::ALEXKERN_ISA {

inline void ran(const char* kernel) { __atomic_store_n(&last_kernel, kernel, __ATOMIC_RELAXED); }

#if defined(__AVX512F__)
constexpr int LANES = 16;
#elif defined(__AVX2__)
constexpr int LANES = 8;
#else
constexpr int LANES = 4;
#endif

constexpr int MOST_LANES = 16;  // of all sets: for a size that does not depend on the one in use

typedef float Floats __attribute__((vector_size(4 * LANES)));
typedef std::int32_t Ints __attribute__((vector_size(4 * LANES)));
typedef std::uint32_t Words __attribute__((vector_size(4 * LANES)));
typedef std::uint64_t Longs __attribute__((vector_size(4 * LANES)));  // of half as many
typedef std::uint16_t Halves __attribute__((vector_size(2 * LANES)));
typedef std::uint8_t Bytes __attribute__((vector_size(LANES)));

struct BFloat16 {
    std::uint16_t bits;  // the upper half of a float's
};

// run(T()) with the type of a tensor's numbers. Kernels compute in float32 whatever it is.
template <typename Run>
inline void on_numbers(bool bfloat16, const Run& run) {
    bfloat16 ? run(BFloat16()) : run(float());
}

// From and to any address: __builtin_memcpy would have arrays of vectors lie in memory.
template <typename Vector>
struct [[gnu::packed, gnu::may_alias]] Anywhere {
    Vector value;
};

template <typename Vector>
inline Vector load(const void* from) {
    return static_cast<const Anywhere<Vector>*>(from)->value;
}

template <typename Vector>
inline void store(void* to, const Vector& value) {
    static_cast<Anywhere<Vector>*>(to)->value = value;
}

// In a register from here on: what is used several times GCC would otherwise read for each, as an operand of every use.
template <typename Vector>
inline Vector in_register(Vector x) {
#if defined(__x86_64__)
    asm("" : "+v"(x));
#endif
    return x;
}

inline float widen(float x) { return x; }

inline float widen(BFloat16 x) {
    const std::uint32_t word = std::uint32_t(x.bits) << 16;
    float value;
    __builtin_memcpy(&value, &word, sizeof(value));
    return value;
}

inline Floats widen(Halves x) {
#if defined(__AVX512F__)
    return Floats(Words(_mm512_maskz_cvtepu16_epi32(0xFFFF, __m256i(x))) << 16);
#elif defined(__AVX2__)
    return Floats(Words(_mm256_cvtepu16_epi32(__m128i(x))) << 16);
#else
    return Floats(__builtin_convertvector(x, Words) << 16);
#endif
}

// To the nearest, of two as near the even one.
inline Halves narrow_any(Floats x) {
    const Words bits = Words(x), rounded = (bits + 0x7FFFu + (bits >> 16 & 1u)) >> 16;
    const Words words = x == x ? rounded : bits >> 16 | 0x40u;
#if defined(__AVX512F__)
    return Halves(_mm512_maskz_cvtepi32_epi16(0xFFFF, __m512i(words)));
#elif defined(__AVX2__)
    const __m256i both = __m256i(words);
    return Halves(_mm_packus_epi32(_mm256_castsi256_si128(both), _mm256_extracti128_si256(both, 1)));
#else
    return __builtin_convertvector(words, Halves);
#endif
}

#if defined(__AVX512BF16__)
// The same in one instruction, which takes denormals for zeros.
inline Halves round_off(Floats x) { return Halves(_mm512_cvtneps_pbh(__m512(x))); }

inline Halves narrow(Floats x) {
    constexpr int DENORMAL = 0x20;
    return __builtin_expect(_mm512_fpclass_ps_mask(x, DENORMAL) == 0, 1) ? round_off(x) : narrow_any(x);
}
#else
inline Halves narrow(Floats x) { return narrow_any(x); }
#endif

// What products are taken of, in words of 32 bits: a float32, or two numbers of bfloat16 that stand side by side.
template <typename T>
constexpr int PER_WORD = sizeof(float) / sizeof(T);

// sum + x y, of words of T.
template <typename T>
inline Floats add_product(Floats sum, Floats x, Floats y) {
    static_assert(sizeof(T) == sizeof(float), "of bfloat16 below");
    return sum + x * y;
}

#if defined(__AVX512BF16__)
template <>
inline Floats add_product<BFloat16>(Floats sum, Floats x, Floats y) {
    return Floats(_mm512_dpbf16_ps(__m512(sum), __m512bh(x), __m512bh(y)));
}

constexpr bool HAS_PRODUCTS_OF_BFLOAT16 = true;
#else
constexpr bool HAS_PRODUCTS_OF_BFLOAT16 = false;
#endif

// Numbers of a tensor.
inline Floats load(const float* from) { return load<Floats>(from); }
inline Floats load(const BFloat16* from) { return widen(load<Halves>(from)); }
inline void store(BFloat16* to, Floats value) { store<Halves>(to, narrow(value)); }

// To an aligned address that nobody reads soon, past the caches: in order with what follows from end_of_stream on.
inline void stream(float* to, Floats value) {
#if defined(__AVX512F__)
    _mm512_stream_ps(to, value);
#elif defined(__AVX2__)
    _mm256_stream_ps(to, value);
#elif defined(__x86_64__)
    _mm_stream_ps(to, value);
#else
    store(to, value);
#endif
}

inline void end_of_stream() {
#if defined(__x86_64__)
    _mm_sfence();
#endif
}

// The first `count` lanes; the others are 0. Byte by byte would be a call of memcpy, for ten times as long.
inline Floats load_part(const float* from, int count) {
#if defined(__AVX512F__)
    return _mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << count) - 1), from);
#elif defined(__AVX2__)
    const __m256i lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_maskload_ps(from, _mm256_cmpgt_epi32(_mm256_set1_epi32(count), lanes));
#else
    Floats value = {};
    for (int i = 0; i < count; ++i) value[i] = from[i];
    return value;
#endif
}

inline void store_part(float* to, Floats value, int count) {
#if defined(__AVX512F__)
    _mm512_mask_storeu_ps(to, static_cast<__mmask16>((1u << count) - 1), value);
#elif defined(__AVX2__)
    const __m256i lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    _mm256_maskstore_ps(to, _mm256_cmpgt_epi32(_mm256_set1_epi32(count), lanes), value);
#else
    for (int i = 0; i < count; ++i) to[i] = value[i];
#endif
}

inline Floats load_part(const BFloat16* from, int count) {
#if defined(__AVX512F__)
    return widen(Halves(_mm256_maskz_loadu_epi16(static_cast<__mmask16>((1u << count) - 1), from)));
#else
    Halves value = {};
    for (int i = 0; i < count; ++i) value[i] = from[i].bits;
    return widen(value);
#endif
}

inline void store_part(BFloat16* to, Floats value, int count) {
    const Halves halves = narrow(value);
#if defined(__AVX512F__)
    _mm256_mask_storeu_epi16(to, static_cast<__mmask16>((1u << count) - 1), __m256i(halves));
#else
    for (int i = 0; i < count; ++i) to[i].bits = halves[i];
#endif
}

// A vector of which `count` numbers are there: none where it is below 1.
template <typename T>
inline Floats load_some(const T* from, std::int64_t count) {
    if (count >= LANES) return load(from);
    return count > 0 ? load_part(from, static_cast<int>(count)) : Floats{};
}

template <typename T>
inline void store_some(T* to, Floats value, std::int64_t count) {
    if (count >= LANES) {
        store(to, value);
    } else if (count > 0) {
        store_part(to, value, static_cast<int>(count));
    }
}

inline Ints load_part(const std::int32_t* from, int count) {
    return Ints(load_part(reinterpret_cast<const float*>(from), count));
}

inline void store_part(std::int32_t* to, Ints value, int count) {
    store_part(reinterpret_cast<float*>(to), Floats(value), count);
}

inline Bytes load_part(const std::uint8_t* from, int count) {
#if defined(__AVX512F__)
    return Bytes(_mm_maskz_loadu_epi8(static_cast<__mmask16>((1u << count) - 1), from));
#elif defined(__x86_64__)
    // Two words that overlap, the later one moved to where it belongs.
    std::uint64_t word = from[0];
    if (count >= 4) {
        word = load<std::uint32_t>(from) | std::uint64_t(load<std::uint32_t>(from + count - 4)) << 8 * (count - 4);
    } else if (count >= 2) {
        word = load<std::uint16_t>(from) | std::uint64_t(load<std::uint16_t>(from + count - 2)) << 8 * (count - 2);
    }
    return load<Bytes>(&word);
#else
    Bytes value = {};
    for (int i = 0; i < count; ++i) value[i] = from[i];
    return value;
#endif
}

inline void store_part(std::uint8_t* to, Bytes value, int count) {
#if defined(__AVX512F__)
    _mm_mask_storeu_epi8(to, static_cast<__mmask16>((1u << count) - 1), __m128i(value));
#else
    for (int i = 0; i < count; ++i) to[i] = value[i];
#endif
}

inline Floats all(float value) { return value - Floats{}; }
inline Ints all(std::int32_t value) { return value - Ints{}; }

// The sign bits of the lanes.
inline std::uint64_t bits(Ints lanes) {
#if defined(__AVX512F__)
    return _mm512_movepi32_mask(__m512i(lanes));
#elif defined(__AVX2__)
    return static_cast<std::uint32_t>(_mm256_movemask_ps(__m256(lanes)));
#elif defined(__x86_64__)
    return static_cast<std::uint32_t>(_mm_movemask_ps(__m128(lanes)));
#else
    std::uint64_t found = 0;
    for (int i = 0; i < LANES; ++i) found |= std::uint64_t(lanes[i] < 0) << i;
    return found;
#endif
}

inline Floats square_root(Floats x) {
#if defined(__AVX512F__)
    return _mm512_maskz_sqrt_ps(0xFFFF, x);  // of the plain one GCC 12 warns that its own header is amiss
#elif defined(__AVX2__)
    return _mm256_sqrt_ps(x);
#elif defined(__x86_64__)
    return _mm_sqrt_ps(x);
#else
    for (int i = 0; i < LANES; ++i) x[i] = __builtin_sqrtf(x[i]);
    return x;
#endif
}

// Products of the lower 32 bits of every 64.
inline Longs multiply_low(Longs a, Longs b) {
#if defined(__AVX512F__)
    return Longs(_mm512_maskz_mul_epu32(0xFF, __m512i(a), __m512i(b)));
#elif defined(__AVX2__)
    return Longs(_mm256_mul_epu32(__m256i(a), __m256i(b)));
#elif defined(__x86_64__)
    return Longs(_mm_mul_epu32(__m128i(a), __m128i(b)));
#else
    return (a & 0xFFFFFFFFu) * (b & 0xFFFFFFFFu);
#endif
}

// Bytes to numbers, and numbers below 256 to bytes.
inline Ints widen(Bytes x) {
#if defined(__AVX512F__)
    return Ints(_mm512_maskz_cvtepu8_epi32(0xFFFF, __m128i(x)));
#elif defined(__AVX2__)
    return Ints(_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(&x))));
#elif defined(__x86_64__)
    const __m128i zero = _mm_setzero_si128(), four = _mm_cvtsi32_si128(load<std::int32_t>(&x));
    return Ints(_mm_unpacklo_epi16(_mm_unpacklo_epi8(four, zero), zero));
#else
    return __builtin_convertvector(x, Ints);
#endif
}

inline Bytes narrow(Ints x) {
#if defined(__AVX512F__)
    return Bytes(_mm512_maskz_cvtepi32_epi8(0xFFFF, __m512i(x)));
#elif defined(__AVX2__)
    const __m256i both = __m256i(x);
    const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(both), _mm256_extracti128_si256(both, 1));
    Bytes bytes;
    _mm_storel_epi64(reinterpret_cast<__m128i*>(&bytes), _mm_packus_epi16(words, words));
    return bytes;
#elif defined(__x86_64__)
    const __m128i words = _mm_packs_epi32(__m128i(x), __m128i(x));
    const std::int32_t four = _mm_cvtsi128_si32(_mm_packus_epi16(words, words));
    return load<Bytes>(&four);
#else
    return __builtin_convertvector(x, Bytes);
#endif
}

// a > b ? a : b, which b is where either is NaN.
inline Floats larger(Floats a, Floats b) {
#if defined(__AVX512F__)
    return Floats(_mm512_maskz_max_ps(0xFFFF, a, b));
#elif defined(__AVX2__)
    return Floats(_mm256_max_ps(a, b));
#else
    return a > b ? a : b;
#endif
}

inline bool has_nan(Floats x) {
#if defined(__AVX512F__)
    return _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q) != 0;
#elif defined(__AVX2__)
    return _mm256_movemask_ps(_mm256_cmp_ps(x, x, _CMP_UNORD_Q)) != 0;
#else
    Ints found = x != x;
    bool any = false;
    for (int lane = 0; lane < LANES; ++lane) any |= found[lane] != 0;
    return any;
#endif
}

// Lanes that were found, and a sum of numbers of type T in those alone. With AVX-512 a bit is a lane, a register of
// bytes has those of four, and float32 is read and cleared at once: Zen 4 takes longer to add it from memory in some
// lanes.
#if defined(__AVX512F__)
typedef __mmask16 Lanes;

inline Lanes find(Ints x, std::int32_t value) { return _mm512_cmpeq_epi32_mask(__m512i(x), __m512i(all(value))); }

inline void find(const std::uint8_t* from, std::int32_t value, Lanes (&found)[4]) {
    const std::uint64_t bits = _mm512_cmpeq_epi8_mask(load<__m512i>(from), _mm512_set1_epi8(static_cast<char>(value)));
    for (int i = 0; i < 4; ++i) found[i] = static_cast<Lanes>(bits >> i * LANES);
}

template <typename T>
inline Floats add_in(Lanes found, Floats sum, Floats x) {
    if (sizeof(T) == sizeof(float)) return sum + Floats(_mm512_maskz_mov_ps(found, x));
    return _mm512_mask_add_ps(sum, found, sum, x);
}
#else
typedef Ints Lanes;

inline Lanes find(Ints x, std::int32_t value) { return x == all(value); }

inline void find(const std::uint8_t* from, std::int32_t value, Lanes (&found)[4]) {
    for (int i = 0; i < 4; ++i) found[i] = find(widen(load<Bytes>(from + i * LANES)), value);
}

template <typename T>
inline Floats add_in(Lanes found, Floats sum, Floats x) {
    return sum + (found ? x : Floats{});
}
#endif

// a0 b0 a1 b1 ..., the lower half and the upper.
template <typename Vector>
struct Interleaved {
    Vector low, high;
};

template <typename Vector>
inline Interleaved<Vector> interleave(Vector a, Vector b) {
    constexpr int count = sizeof(a) / sizeof(a[0]);
#if defined(__clang__)
    Interleaved<Vector> both;
    for (int i = 0; i < count; ++i) {
        (2 * i < count ? both.low : both.high)[2 * i % count] = a[i];
        (2 * i < count ? both.low : both.high)[2 * i % count + 1] = b[i];
    }
    return both;
#else
    decltype(a < b) low, high;
    for (int i = 0; i < count; ++i) {
        low[i] = i / 2 + i % 2 * count;
        high[i] = low[i] + count / 2;
    }
    return {__builtin_shuffle(a, b, low), __builtin_shuffle(a, b, high)};
#endif
}

// x[i][j] becomes x[j][i]: each round moves the uppermost bit of a place's i j to its end.
inline void transpose(Floats (&x)[LANES]) {
#pragma GCC unroll 4
    for (int round = 1; round < LANES; round *= 2) {
        Floats turned[LANES];
#pragma GCC unroll 8
        for (int i = 0; i < LANES / 2; ++i) {
            const Interleaved<Floats> pair = interleave(x[i], x[i + LANES / 2]);
            turned[2 * i] = pair.low;
            turned[2 * i + 1] = pair.high;
        }
#pragma GCC unroll 16
        for (int i = 0; i < LANES; ++i) x[i] = turned[i];
    }
}

}  // namespace alexkern::ALEXKERN_ISA
