// What a warp does with a stage in shared memory: sum += A B, its kRows x kColumns part of the block's product.
//
// Three kinds with the same tiles in and the same registers out, those of mma.sync's d: for tile (i, j) of 16 x 8, with
// g = lane / 4 and t = lane % 4, registers 0 to 3 are (g, 2t), (g, 2t + 1), (g + 8, 2t), (g + 8, 2t + 1).
#pragma once

#include "../ptx/ldmatrix.cuh"
#include "../ptx/mma.cuh"
#include "layout.cuh"

namespace mma {

template <int kRows, int kColumns>
struct Sums {
    static constexpr int kTilesM = kRows / 16, kTilesN = kColumns / 8;
    static_assert(kRows % 16 == 0 && kColumns % 16 == 0, "ldmatrix brings 16 rows or columns at once");
    float value[kTilesM][kTilesN][4] = {};
};

// A stage's tile, by its place in shared memory, at the warp's first row or column.
struct Operand {
    const unsigned char* shared;   // the block's shared memory
    std::uint32_t shared_address;  // the same as an instruction takes it
    int tile;                      // bytes from there to the tile
    int first;                     // along M or N

    template <typename T>
    __device__ __forceinline__ T load(int offset) const {
        return *reinterpret_cast<const T*>(shared + tile + offset);
    }
};

// The a fragment of rows first + 16 i and depth step `step`: 16 x 32 bytes, for 16-bit values and for 32-bit ones.
template <typename Tile>
__device__ __forceinline__ void load_a(std::uint32_t (&a)[4], const Operand& operand, int i, int step, int lane) {
    const int extent = operand.first + 16 * i;
    const std::uint32_t tile = operand.shared_address + operand.tile;
    if constexpr (Tile::kAlong == Along::depth) {
        ptx::ldmatrix_x4(a, tile + Tile::vector(extent + lane % 16, 2 * step + lane / 16));
    } else {
        const int row = 16 * step + lane / 16 * 8 + lane % 8;
        ptx::ldmatrix_x4_trans(a, tile + Tile::vector(row, extent / 8 + lane / 8 % 2));
    }
}

// The b fragments of columns first + 8 j and first + 8 (j + 1).
template <typename Tile>
__device__ __forceinline__ void load_b(std::uint32_t (&b)[2][2], const Operand& operand, int j, int step, int lane) {
    const int extent = operand.first + 8 * j;
    const std::uint32_t tile = operand.shared_address + operand.tile;
    std::uint32_t pair[4];
    if constexpr (Tile::kAlong == Along::depth) {
        ptx::ldmatrix_x4(pair, tile + Tile::vector(extent + lane % 8 + lane / 16 * 8, 2 * step + lane / 8 % 2));
    } else {
        ptx::ldmatrix_x4_trans(pair, tile + Tile::vector(16 * step + lane % 16, extent / 8 + lane / 16));
    }
    for (int half = 0; half < 2; ++half) {
        b[half][0] = pair[2 * half];
        b[half][1] = pair[2 * half + 1];
    }
}

// fp16 or bf16 on the tensor cores.
template <typename T>
struct Half {
    using Element = T;

    template <typename TileA, typename TileB, int kRows, int kColumns>
    static __device__ __forceinline__ void multiply(Sums<kRows, kColumns>& sums, const Operand& a, const Operand& b,
                                                    int lane) {
        constexpr int kTilesM = kRows / 16, kTilesN = kColumns / 8;
#pragma unroll
        for (int step = 0; step < TileA::kDepth / 16; ++step) {
            std::uint32_t a_registers[kTilesM][4], b_registers[kTilesN / 2][2][2];
#pragma unroll
            for (int i = 0; i < kTilesM; ++i) load_a<TileA>(a_registers[i], a, i, step, lane);
#pragma unroll
            for (int j = 0; j < kTilesN; j += 2) load_b<TileB>(b_registers[j / 2], b, j, step, lane);
#pragma unroll
            for (int i = 0; i < kTilesM; ++i) {
#pragma unroll
                for (int j = 0; j < kTilesN; ++j)
                    ptx::mma_m16n8k16<T>(sums.value[i][j], a_registers[i], b_registers[j / 2][j % 2]);
            }
        }
    }
};

// fp32 rounded to tf32, on the tensor cores.
struct Tf32 {
    using Element = float;

    template <typename TileA, typename TileB, int kRows, int kColumns>
    static __device__ __forceinline__ void multiply(Sums<kRows, kColumns>& sums, const Operand& a, const Operand& b,
                                                    int lane) {
        constexpr int kTilesM = kRows / 16, kTilesN = kColumns / 8;
        const int g = lane / 4, t = lane % 4;
#pragma unroll
        for (int step = 0; step < TileA::kDepth / 8; ++step) {
            std::uint32_t a_registers[kTilesM][4], b_registers[kTilesN / 2][2][2];
#pragma unroll
            for (int i = 0; i < kTilesM; ++i) {
                if constexpr (TileA::kAlong == Along::depth) {
                    load_a<TileA>(a_registers[i], a, i, step, lane);
                } else {
                    for (int r = 0; r < 4; ++r) {
                        const int m = a.first + 16 * i + g + 8 * (r % 2), k = 8 * step + t + 4 * (r / 2);
                        a_registers[i][r] = a.load<std::uint32_t>(TileA::value(m, k));
                    }
                }
                for (int r = 0; r < 4; ++r) a_registers[i][r] = rounded(a_registers[i][r]);
            }
#pragma unroll
            for (int j = 0; j < kTilesN; j += 2) {
                if constexpr (TileB::kAlong == Along::depth) {
                    load_b<TileB>(b_registers[j / 2], b, j, step, lane);
                } else {
                    for (int r = 0; r < 4; ++r) {
                        const int n = b.first + 8 * (j + r / 2) + g, k = 8 * step + t + 4 * (r % 2);
                        b_registers[j / 2][r / 2][r % 2] = b.load<std::uint32_t>(TileB::value(n, k));
                    }
                }
                for (int r = 0; r < 4; ++r)
                    b_registers[j / 2][r / 2][r % 2] = rounded(b_registers[j / 2][r / 2][r % 2]);
            }
#pragma unroll
            for (int i = 0; i < kTilesM; ++i) {
#pragma unroll
                for (int j = 0; j < kTilesN; ++j)
                    ptx::mma_m16n8k8_tf32(sums.value[i][j], a_registers[i], b_registers[j / 2][j % 2]);
            }
        }
    }

  private:
    static __device__ __forceinline__ std::uint32_t rounded(std::uint32_t bits) {
        return ptx::to_tf32(__uint_as_float(bits));
    }
};

// fp32, every product and sum in full. A stage is summed by itself first: its rounding errors stay small, where one
// long chain of additions would let them grow with the depth.
struct Fp32 {
    using Element = float;

    template <typename TileA, typename TileB, int kRows, int kColumns>
    static __device__ __forceinline__ void multiply(Sums<kRows, kColumns>& sums, const Operand& a, const Operand& b,
                                                    int lane) {
        constexpr int kTilesM = kRows / 16, kTilesN = kColumns / 8;
        const int g = lane / 4, t = lane % 4;
        Sums<kRows, kColumns> stage;
        // Where the rows run along K, four of it come in one load.
        constexpr int kStep = TileA::kAlong == Along::depth && TileB::kAlong == Along::depth ? 4 : 1;
#pragma unroll 1
        for (int first = 0; first < TileA::kDepth; first += kStep) {
            float a_values[kTilesM][2][kStep];
#pragma unroll
            for (int i = 0; i < kTilesM; ++i) {
#pragma unroll
                for (int half = 0; half < 2; ++half)
                    load<TileA, kStep>(a_values[i][half], a, 16 * i + 8 * half + g, first);
            }
#pragma unroll
            for (int j = 0; j < kTilesN; ++j) {
                float b_values[2][kStep];
#pragma unroll
                for (int n = 0; n < 2; ++n) load<TileB, kStep>(b_values[n], b, 8 * j + 2 * t + n, first);
#pragma unroll
                for (int k = 0; k < kStep; ++k) {
#pragma unroll
                    for (int i = 0; i < kTilesM; ++i) {
#pragma unroll
                        for (int r = 0; r < 4; ++r) {
                            float& sum = stage.value[i][j][r];
                            sum = __fmaf_rn(a_values[i][r / 2][k], b_values[r % 2][k], sum);
                        }
                    }
                }
            }
        }
#pragma unroll
        for (int i = 0; i < kTilesM; ++i) {
#pragma unroll
            for (int j = 0; j < kTilesN; ++j) {
#pragma unroll
                for (int r = 0; r < 4; ++r) sums.value[i][j][r] += stage.value[i][j][r];
            }
        }
    }

  private:
    template <typename Tile, int kStep>
    static __device__ __forceinline__ void load(float (&values)[kStep], const Operand& operand, int extent, int depth) {
        const int offset = Tile::value(operand.first + extent, depth);
        if constexpr (kStep == 4) {
            const float4 four = operand.load<float4>(offset);
            values[0] = four.x;
            values[1] = four.y;
            values[2] = four.z;
            values[3] = four.w;
        } else {
            values[0] = operand.load<float>(offset);
        }
    }
};

}  // namespace mma
