// max_pool2d: the maximum of every R x S window and its place r * S + s, and a backward that gathers.
//
// NaN wins a window (the last one does), otherwise the first of equal values; the place of a window of -inf alone is
// its first position in the image. backward writes (=) every element of the input's gradient once, and adds up the
// windows in their order: no atomics, and nothing to clear.
#pragma once

#include <cstdint>

#include "../elements.h"

namespace alexkern::max_pool2d {

struct Strides {
    std::int64_t n, c, h, w;  // in elements; h and w are p and q for what is pooled
};

struct Window {
    int R, S, stride_h, stride_w, padding_h, padding_w, dilation_h, dilation_w;
};

struct Params {
    Element element;
    bool wide_offsets;  // int32, for windows of more pixels than a byte can name; else uint8
    bool behind_relu;   // forward's image came out of a ReLU; the offset of a winner that it clipped says so
    int N, C, H, W, P, Q;
    Window window;
    void* image;    // (N, C, H, W): read by forward; its gradient, written by backward
    void* pooled;   // (N, C, P, Q): written by forward; its gradient, read by backward
    void* offsets;  // (N, C, P, Q); null where forward is not to save them
    Strides image_strides, pooled_strides, offset_strides;
};

// How many 3x3 windows below each other a thread of forward takes, for so many vectors of pooled values in images of P
// pooled rows: a strip of n reads 2 * n + 1 rows instead of 3 * n. Up to 4, while there are threads for a whole GPU; of
// counts that cut a column into as many strips, the smallest. Pure.
int windows_of_strip(std::int64_t pooled_vectors, int P);

void forward(const Params& params, Stream stream);
void backward(const Params& params, Stream stream);

}  // namespace alexkern::max_pool2d
