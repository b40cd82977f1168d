// How an operand's tile lies in shared memory: rows of vectors of 16 bytes, permuted so that what a warp reads together
// lies in different banks.
#pragma once

#include "../ptx/platform.cuh"

namespace mma {

constexpr int kVectorBytes = 16;
constexpr int kDepthBytes = 128;  // a stage's share of K: all 32 banks once

// Which index runs along a row of the tile: that of the sum, or the operand's own, M or N.
enum class Along { depth, extent };

// kExtent values along M or N, kDepthBytes / sizeof(T) along K.
template <typename T, Along kRowsAlong, int kExtent>
struct Tile {
    static constexpr Along kAlong = kRowsAlong;
    static constexpr int kPerVector = kVectorBytes / sizeof(T);
    static constexpr int kDepth = kDepthBytes / sizeof(T);
    static constexpr int kRows = kAlong == Along::depth ? kExtent : kDepth;
    static constexpr int kPitch = sizeof(T) * (kAlong == Along::depth ? kDepth : kExtent);  // bytes
    static constexpr int kBytes = kRows * kPitch;
    static_assert(kPitch % 128 == 0, "the permutation moves vectors within 128 bytes");

    // ldmatrix reads one vector of eight rows. 32-bit values along M or N are read as two vectors of each of four rows.
    static __device__ __forceinline__ int vector(int row, int column) {
        const int shift = sizeof(T) == 4 && kAlong == Along::extent ? 2 * (row & 3) : row & 7;
        return row * kPitch + kVectorBytes * (column ^ shift);
    }

    // Byte offset of one value.
    static __device__ __forceinline__ int value(int along_extent, int along_depth) {
        const int row = kAlong == Along::depth ? along_extent : along_depth;
        const int column = kAlong == Along::depth ? along_depth : along_extent;
        return vector(row, column / kPerVector) + column % kPerVector * static_cast<int>(sizeof(T));
    }
};

}  // namespace mma
