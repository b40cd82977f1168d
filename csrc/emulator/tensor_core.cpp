// ldmatrix, stmatrix and mma.sync. Layouts: PTX ISA, "Matrix fragments for mma.m16n8k16", "... m16n8k8", "ldmatrix".
#include "tensor_core.h"

#include <algorithm>
#include <cstring>

#include "internal.h"
#include "memory.h"
#include "numbers.h"

namespace emulator {
namespace {

constexpr unsigned kRowBytes = 16;

struct Row {
    unsigned char bytes[kRowBytes];
    std::uint32_t address;
};

// Passes over the banks beyond the first that the rows of matrices take, whose lanes deposited their addresses at
// `offset`: eight rows take one if they lie in different vectors of the 128-byte bank line, or are the same.
std::uint64_t bank_conflicts(const Deposits& deposits, std::size_t offset, int matrices) {
    std::uint64_t conflicts = 0;
    for (int matrix = 0; matrix < matrices; ++matrix) {
        std::uint32_t addresses[8];
        unsigned passes[8] = {}, most = 0;
        for (int row = 0; row < 8; ++row) {
            std::memcpy(&addresses[row], deposits.of[8 * matrix + row] + offset, sizeof(std::uint32_t));
            if (std::find(addresses, addresses + row, addresses[row]) != addresses + row) continue;
            most = std::max(most, ++passes[addresses[row] / kRowBytes % 8]);
        }
        conflicts += most - 1;
    }
    return conflicts;
}

template <int kMatrices>
void count_loads(Deposits& deposits, Statistics& statistics) {
    ++statistics.ldmatrix;
    statistics.ldmatrix_bank_conflicts += bank_conflicts(deposits, offsetof(Row, address), kMatrices);
}

struct Quarters {
    std::uint32_t registers[4], address;
};

void count_stores(Deposits& deposits, Statistics& statistics) {
    ++statistics.stmatrix;
    statistics.stmatrix_bank_conflicts += bank_conflicts(deposits, offsetof(Quarters, address), 4);
}

struct Operands {
    std::uint32_t a[4], b[2];
    float c[4];
};
static_assert(sizeof(Operands) <= kDepositBytes, "a lane's operands are what it deposits");

typedef float EightOfN __attribute__((vector_size(32)));  // a row of b, c or d

float from_fp16(std::uint32_t bits) { return float_from_fp16(static_cast<std::uint16_t>(bits)); }
float from_bf16(std::uint32_t bits) { return float_from_bf16(static_cast<std::uint16_t>(bits)); }
float from_tf32(std::uint32_t bits) { return bit_cast<float>(bits & ~0x1fffu); }

// d = a b + c, summed along k in fp32: the order is the emulator's own, the GPU's is not specified.
template <int kStepK, float (*kConvert)(std::uint32_t)>
void multiply(Deposits& deposits, Statistics& statistics) {
    ++statistics.mma;
    constexpr bool kHalves = kStepK == 16;
    float a[16][kStepK];
    union {
        EightOfN row[16];
        float at[16][8];
    } b, d;
    for (unsigned lane = 0; lane < kLanes; ++lane) {
        Operands mine;
        std::memcpy(&mine, deposits.of[lane], sizeof mine);
        const unsigned g = lane >> 2, t = lane & 3;
        for (unsigned r = 0; r < 4; ++r) {
            float* row = a[g + 8 * (r & 1)];
            if (kHalves) {
                row[2 * t + 8 * (r >> 1)] = kConvert(mine.a[r] & 0xffff);
                row[2 * t + 1 + 8 * (r >> 1)] = kConvert(mine.a[r] >> 16);
            } else {
                row[t + 4 * (r >> 1)] = kConvert(mine.a[r]);
            }
            d.at[g + 8 * (r >> 1)][2 * t + (r & 1)] = mine.c[r];
        }
        for (unsigned r = 0; r < 2; ++r) {
            if (kHalves) {
                b.at[2 * t + 8 * r][g] = kConvert(mine.b[r] & 0xffff);
                b.at[2 * t + 1 + 8 * r][g] = kConvert(mine.b[r] >> 16);
            } else {
                b.at[t + 4 * r][g] = kConvert(mine.b[r]);
            }
        }
    }
    for (int m = 0; m < 16; m += 4) {
        for (int k = 0; k < kStepK; ++k) {
            for (int i = 0; i < 4; ++i) d.row[m + i] += a[m + i][k] * b.row[k];
        }
    }
    for (unsigned lane = 0; lane < kLanes; ++lane) {
        const unsigned g = lane >> 2, t = lane & 3;
        float mine[4];
        for (unsigned r = 0; r < 4; ++r) mine[r] = d.at[g + 8 * (r >> 1)][2 * t + (r & 1)];
        std::memcpy(deposits.of[lane], mine, sizeof mine);
    }
}

void multiply_together(const char* name, float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2],
                       const float (&c)[4], void (*combine)(Deposits&, Statistics&)) {
    Operands mine;
    std::memcpy(mine.a, a, sizeof a);
    std::memcpy(mine.b, b, sizeof b);
    std::memcpy(mine.c, c, sizeof c);
    const Deposits& results = meet_whole_warp({name}, &mine, sizeof mine, combine);
    std::memcpy(d, results.of[this_thread().lane], sizeof d);
}

}  // namespace

void load_matrices(std::uint32_t* registers, int matrices, bool transposed, std::uint32_t row_address) {
    static constexpr const char* kNames[2][5] = {
        {"", "ldmatrix.x1", "ldmatrix.x2", "", "ldmatrix.x4"},
        {"", "ldmatrix.x1.trans", "ldmatrix.x2.trans", "", "ldmatrix.x4.trans"},
    };
    const char* name = kNames[transposed][matrices];
    const unsigned lane = this_thread().lane;
    Row mine = {};
    if (lane < 8u * matrices) {  // the addresses of the other lanes are not used
        const unsigned char* row = shared_pointer(row_address, kRowBytes, kRowBytes, name);
        race::read(row, kRowBytes);
        __builtin_memcpy(mine.bytes, row, kRowBytes);
        mine.address = row_address;
    }
    const auto count = matrices == 1 ? count_loads<1> : matrices == 2 ? count_loads<2> : count_loads<4>;
    const Deposits& rows = meet_whole_warp({name}, &mine, sizeof mine, count);
    const unsigned g = lane >> 2, t = lane & 3;
    for (int matrix = 0; matrix < matrices; ++matrix) {
        const unsigned char (*row)[kDepositBytes] = rows.of + 8 * matrix;
        std::uint16_t low, high;
        std::memcpy(&low, transposed ? row[2 * t] + 2 * g : row[g] + 4 * t, sizeof low);
        std::memcpy(&high, transposed ? row[2 * t + 1] + 2 * g : row[g] + 4 * t + 2, sizeof high);
        registers[matrix] = static_cast<std::uint32_t>(high) << 16 | low;
    }
}

void store_matrices(std::uint32_t row_address, const std::uint32_t (&registers)[4]) {
    const char* const name = "stmatrix.x4";
    unsigned char* const row = shared_pointer(row_address, kRowBytes, kRowBytes, name);
    Quarters mine;
    std::memcpy(mine.registers, registers, sizeof registers);
    mine.address = row_address;
    const Deposits& all = meet_whole_warp({name}, &mine, sizeof mine, count_stores);
    const unsigned matrix = this_thread().lane / 8,
                   first = this_thread().lane % 8 * 4;  // of the lanes that have the row
    race::write(row, kRowBytes);
    for (unsigned t = 0; t < 4; ++t) __builtin_memcpy(row + 4 * t, all.of[first + t] + 4 * matrix, 4);
}

void multiply_m16n8k16(Element element, float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2],
                       const float (&c)[4]) {
    if (element == Element::bf16) {
        multiply_together("mma.sync.m16n8k16.bf16", d, a, b, c, multiply<16, from_bf16>);
    } else {
        multiply_together("mma.sync.m16n8k16.f16", d, a, b, c, multiply<16, from_fp16>);
    }
}

void multiply_m16n8k8_tf32(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2],
                           const float (&c)[4]) {
    multiply_together("mma.sync.m16n8k8.tf32", d, a, b, c, multiply<8, from_tf32>);
}

}  // namespace emulator
