// What a warp does with a stage in shared memory: sum += A B, its kM x kN part of the block's product.
//
// Three kinds with the same layouts in and the same registers out, those of mma.sync's d: for fragment (i, j) of 16 x
// 8, with g = lane / 4 and t = lane % 4, registers 0 to 3 are (g, 2t), (g, 2t + 1), (g + 8, 2t), (g + 8, 2t + 1).
#pragma once

#include "../ptx/ldmatrix.cuh"
#include "../ptx/mma.cuh"
#include "layout.cuh"

namespace mma {

template <int kM, int kN>
struct Sums {
    static constexpr int kFragmentsM = kM / 16, kFragmentsN = kN / 8;
    static_assert(kM % 16 == 0 && kN % 16 == 0, "ldmatrix brings 16 along M or N at once");
    float value[kFragmentsM][kFragmentsN][4] = {};
};

// An operand's tile in a stage, at what the warp has of it.
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

// The a fragment of M from first + 16 i on and step `step` of K: 16 x 32 bytes, for 16-bit values and for 32-bit ones.
template <typename Layout>
__device__ __forceinline__ void load_a(std::uint32_t (&a)[4], const Operand& operand, int i, int step, int lane) {
    const int extent = operand.first + 16 * i;
    const std::uint32_t tile = operand.shared_address + operand.tile;
    if constexpr (Layout::kAlong == Along::k) {
        ptx::ldmatrix_x4(a, tile + Layout::vector(extent + lane % 16, 2 * step + lane / 16));
    } else {
        const int row = 16 * step + lane / 16 * 8 + lane % 8;
        ptx::ldmatrix_x4_trans(a, tile + Layout::vector(row, extent / 8 + lane / 8 % 2));
    }
}

// The b fragments of N from first + 8 j and first + 8 (j + 1) on.
template <typename Layout>
__device__ __forceinline__ void load_b(std::uint32_t (&b)[2][2], const Operand& operand, int j, int step, int lane) {
    const int extent = operand.first + 8 * j;
    const std::uint32_t tile = operand.shared_address + operand.tile;
    std::uint32_t pair[4];
    if constexpr (Layout::kAlong == Along::k) {
        ptx::ldmatrix_x4(pair, tile + Layout::vector(extent + lane % 8 + lane / 16 * 8, 2 * step + lane / 8 % 2));
    } else {
        ptx::ldmatrix_x4_trans(pair, tile + Layout::vector(16 * step + lane % 16, extent / 8 + lane / 16));
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

    template <typename LayoutA, typename LayoutB, int kM, int kN>
    static __device__ __forceinline__ void multiply(Sums<kM, kN>& sums, const Operand& a, const Operand& b, int lane) {
        constexpr int kFragmentsM = kM / 16, kFragmentsN = kN / 8;
#pragma unroll
        for (int step = 0; step < LayoutA::kBlockK / 16; ++step) {
            std::uint32_t a_registers[kFragmentsM][4], b_registers[kFragmentsN / 2][2][2];
#pragma unroll
            for (int i = 0; i < kFragmentsM; ++i) load_a<LayoutA>(a_registers[i], a, i, step, lane);
#pragma unroll
            for (int j = 0; j < kFragmentsN; j += 2) load_b<LayoutB>(b_registers[j / 2], b, j, step, lane);
#pragma unroll
            for (int i = 0; i < kFragmentsM; ++i) {
#pragma unroll
                for (int j = 0; j < kFragmentsN; ++j)
                    ptx::mma_m16n8k16<T>(sums.value[i][j], a_registers[i], b_registers[j / 2][j % 2]);
            }
        }
    }
};

// fp32 rounded to tf32, on the tensor cores.
struct Tf32 {
    using Element = float;

    template <typename LayoutA, typename LayoutB, int kM, int kN>
    static __device__ __forceinline__ void multiply(Sums<kM, kN>& sums, const Operand& a, const Operand& b, int lane) {
        constexpr int kFragmentsM = kM / 16, kFragmentsN = kN / 8;
        const int g = lane / 4, t = lane % 4;
#pragma unroll
        for (int step = 0; step < LayoutA::kBlockK / 8; ++step) {
            std::uint32_t a_registers[kFragmentsM][4], b_registers[kFragmentsN / 2][2][2];
#pragma unroll
            for (int i = 0; i < kFragmentsM; ++i) {
                if constexpr (LayoutA::kAlong == Along::k) {
                    load_a<LayoutA>(a_registers[i], a, i, step, lane);
                } else {
                    for (int r = 0; r < 4; ++r) {
                        const int m = a.first + 16 * i + g + 8 * (r % 2), k = 8 * step + t + 4 * (r / 2);
                        a_registers[i][r] = a.load<std::uint32_t>(LayoutA::value(m, k));
                    }
                }
                for (int r = 0; r < 4; ++r) a_registers[i][r] = rounded(a_registers[i][r]);
            }
#pragma unroll
            for (int j = 0; j < kFragmentsN; j += 2) {
                if constexpr (LayoutB::kAlong == Along::k) {
                    load_b<LayoutB>(b_registers[j / 2], b, j, step, lane);
                } else {
                    for (int r = 0; r < 4; ++r) {
                        const int n = b.first + 8 * (j + r / 2) + g, k = 8 * step + t + 4 * (r % 2);
                        b_registers[j / 2][r / 2][r % 2] = b.load<std::uint32_t>(LayoutB::value(n, k));
                    }
                }
                for (int r = 0; r < 4; ++r)
                    b_registers[j / 2][r / 2][r % 2] = rounded(b_registers[j / 2][r / 2][r % 2]);
            }
#pragma unroll
            for (int i = 0; i < kFragmentsM; ++i) {
#pragma unroll
                for (int j = 0; j < kFragmentsN; ++j)
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
// long chain of additions would let them grow with GEMM_K.
struct Fp32 {
    using Element = float;

    template <typename LayoutA, typename LayoutB, int kM, int kN>
    static __device__ __forceinline__ void multiply(Sums<kM, kN>& sums, const Operand& a, const Operand& b, int lane) {
        constexpr int kFragmentsM = kM / 16, kFragmentsN = kN / 8;
        const int g = lane / 4, t = lane % 4;
        Sums<kM, kN> stage;
        // Where the rows run along K, four of it come in one load.
        constexpr int kStep = LayoutA::kAlong == Along::k && LayoutB::kAlong == Along::k ? 4 : 1;
#pragma unroll 1
        for (int first = 0; first < LayoutA::kBlockK; first += kStep) {
            float a_values[kFragmentsM][2][kStep];
#pragma unroll
            for (int i = 0; i < kFragmentsM; ++i) {
#pragma unroll
                for (int half = 0; half < 2; ++half)
                    load<LayoutA, kStep>(a_values[i][half], a, 16 * i + 8 * half + g, first);
            }
#pragma unroll
            for (int j = 0; j < kFragmentsN; ++j) {
                float b_values[2][kStep];
#pragma unroll
                for (int n = 0; n < 2; ++n) load<LayoutB, kStep>(b_values[n], b, 8 * j + 2 * t + n, first);
#pragma unroll
                for (int k = 0; k < kStep; ++k) {
#pragma unroll
                    for (int i = 0; i < kFragmentsM; ++i) {
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
        for (int i = 0; i < kFragmentsM; ++i) {
#pragma unroll
            for (int j = 0; j < kFragmentsN; ++j) {
#pragma unroll
                for (int r = 0; r < 4; ++r) sums.value[i][j][r] += stage.value[i][j][r];
            }
        }
    }

  private:
    template <typename Layout, int kStep>
    static __device__ __forceinline__ void load(float (&values)[kStep], const Operand& operand, int extent, int k) {
        const int offset = Layout::value(operand.first + extent, k);
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
