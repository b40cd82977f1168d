// Bulk copies of tensors (TMA): boxes and im2col's pixels to shared memory, boxes back.
#pragma once

#include <cstdint>

namespace emulator {

enum class Swizzle : unsigned char { none, bytes_32, bytes_64, bytes_128 };

constexpr unsigned kMostDimensions = 5;

// What a tensor map says. Dimensions and coordinates are innermost first, as in PTX.
struct alignas(64) TensorMap {
    unsigned char* data;
    unsigned rank, element_bytes;
    Swizzle swizzle;
    bool im2col;
    std::uint64_t sizes[kMostDimensions], strides[kMostDimensions];  // in elements; in bytes
    unsigned box[kMostDimensions];                                   // tile mode
    int lower[2], upper[2];                                          // im2col: corners of the box, W and H
    unsigned channels, pixels;                                       // likewise: of one copy
    unsigned steps[2];                                               // likewise: from pixel to pixel along W and H
};

// `strides` are those of dimensions 1 and up, in bytes. Both throw std::invalid_argument where the driver would refuse.
TensorMap encode_tiled(void* data, unsigned element_bytes, unsigned rank, const std::uint64_t* sizes,
                       const std::uint64_t* strides, const unsigned* box, Swizzle swizzle);
// Of four dimensions: C, W, H, N.
TensorMap encode_im2col(void* data, unsigned element_bytes, const std::uint64_t (&sizes)[4],
                        const std::uint64_t (&strides)[3], const int (&lower)[2], const int (&upper)[2],
                        unsigned channels, unsigned pixels, const unsigned (&steps)[2], Swizzle swizzle);

// Completes on the mbarrier with the bytes that it wrote.
void bulk_load(std::uint32_t destination, const TensorMap& map, std::uint32_t mbarrier, const int* coordinates,
               unsigned rank);
// Into each of these blocks of its cluster (bit i: that of rank i), at the same offsets, completing on the barrier of
// each.
void bulk_load_multicast(std::uint32_t destination, const TensorMap& map, std::uint32_t mbarrier,
                         const int* coordinates, unsigned rank, unsigned blocks);
void bulk_load_im2col(std::uint32_t destination, const TensorMap& map, std::uint32_t mbarrier,
                      const int (&coordinates)[4], const unsigned (&offsets)[2]);

void bulk_store(const TensorMap& map, std::uint32_t source, const int* coordinates, unsigned rank);
void bulk_commit_group();
// Until all but so many of this thread's newest groups have read what they store: it may be overwritten then. When they
// have written it, nothing says.
void bulk_wait_group_read(unsigned newest_still_pending);

}  // namespace emulator
