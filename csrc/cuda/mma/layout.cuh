// How an operand's tile lies in shared memory: rows of vectors of 16 bytes, permuted so that what a warp reads together
// lies in different banks.
#pragma once

#include "../ptx/platform.cuh"

namespace mma {

constexpr int kVectorBytes = 16;
constexpr int kStepBytes = 128;  // of K, in one stage: all 32 banks once

// Which index runs along a row of the tile: k, or the operand's own, its extent along M or N.
enum class Along { k, extent };

// kExtent values along M or N, kStepBytes / sizeof(T) along K.
template <typename T, Along kRowsAlong, int kExtent>
struct Layout {
    static constexpr Along kAlong = kRowsAlong;
    static constexpr int kPerVector = kVectorBytes / sizeof(T);
    static constexpr int kBlockK = kStepBytes / sizeof(T);
    static constexpr int kRows = kAlong == Along::k ? kExtent : kBlockK;
    static constexpr int kPitch = sizeof(T) * (kAlong == Along::k ? kBlockK : kExtent);  // bytes
    static constexpr int kBytes = kRows * kPitch;
    static_assert(kPitch % 128 == 0, "the permutation moves vectors within 128 bytes");

    // ldmatrix reads one vector of eight rows. 32-bit values along M or N are read as two vectors of each of four rows.
    static __device__ __forceinline__ int vector(int row, int number) {
        const int shift = sizeof(T) == 4 && kAlong == Along::extent ? 2 * (row & 3) : row & 7;
        return row * kPitch + kVectorBytes * (number ^ shift);
    }

    // Byte offset of one value.
    static __device__ __forceinline__ int value(int extent, int k) {
        const int row = kAlong == Along::k ? extent : k;
        const int inner = kAlong == Along::k ? k : extent;
        return vector(row, inner / kPerVector) + inner % kPerVector * static_cast<int>(sizeof(T));
    }
};

}  // namespace mma
