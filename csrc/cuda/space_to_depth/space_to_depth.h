// Space to depth: blocks of 4 x 4 pixels become channels, with the convolution's padding, a cast and, for bytes, the
// normalisation taken in.
//
//   y[n, i, j, (4 a + b) C + c] = x[n, c, 4 i + a - padding, 4 j + b - padding], 0 outside of x
//
// It turns a convolution of stride 4 over few channels into one of stride 1 over 16 C: AlexNet's first layer (11 x 11,
// 3 channels) becomes 3 x 3 over 48. Filters take the same way, without padding, their twelfth row and column 0.
//
// Those zeros are multiplied as well, and 0 times an infinity is NaN. So relayout() marks the lines where it has seen
// one, and amend(), behind the convolution, computes the outputs near them again over their own windows. More is in
// docs/cuda-convolution.md.
#pragma once

#include <cstdint>

#include "../elements.h"

namespace alexkern::space_to_depth {

constexpr int kFactor = 4;
constexpr int kMostChannels = 4;
constexpr int kMarks = kFactor;  // of a block of a line: a row of pixels each

// The type of what is read: those of Element, and bytes.
enum class Source : int { float32, float16, bfloat16, uint8 };

struct Params {
    const void* source;   // (N, C, H, W) of any strides, counted in elements
    void* destination;    // (N, height, width, 4, 4, C)
    std::uint8_t* marks;  // (N, height, marks_per_line(width)): 1 where there is an infinity or a NaN; or null
    int N, C, H, W, height, width, padding_H, padding_W;
    std::int64_t stride_N, stride_C, stride_H, stride_W;
    float scale[kMostChannels], shift[kMostChannels];  // bytes are x * scale + shift
};
void relayout(Source from, Element to, const Params& params, Stream stream);

// How many marks a line has; a launcher cuts a wide one into blocks.
int marks_per_line(int width);

struct AmendParams {
    const void* images;         // (N, P + ceil(R / 4) - 1, Q + ceil(S / 4) - 1, 4, 4, C), by relayout()
    const void* filters;        // (K, ceil(R / 4), ceil(S / 4), 4, 4, C), by relayout()
    const void* bias;           // (K), or null
    const std::uint8_t* marks;  // of the images
    void* output;               // (N, K, P, Q) of any strides, the convolution's
    int N, C, K, P, Q, R, S;    // C, R and S are those of the convolution of stride 4
    std::int64_t stride_N, stride_K, stride_P, stride_Q;
};
void amend(Element element, const AmendParams& params, Stream stream);

}  // namespace alexkern::space_to_depth
