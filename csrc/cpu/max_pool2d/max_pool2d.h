// Max-pooling of images, and its gradient.
#pragma once

#include <cstdint>

#include "../isa.h"

namespace alexkern::max_pool2d {

struct Windows {
    std::int64_t N, C, H, W, P, Q, R, S, stride_h, stride_w, padding_h, padding_w, dilation_h, dilation_w;
};

// Memory is dense: NHWC where channels_last, else NCHW. An offset is r * S + s.
struct Forward {
    Windows windows;
    bool channels_last;
    bool bfloat16;      // else float32: input and output
    bool relu;          // of the input, as it is read; the offset of a winner that it clips is -1, in a byte 255
    bool wide_offsets;  // int32 instead of uint8
    const void* input;
    void* output;
    void* offsets;     // null: none are wanted
    float* workspace;  // `workspace` floats a thread, for NCHW
    int threads;
};

// The gradient of a window goes to the pixel that its offset names. An offset beyond the window names none.
struct Backward {
    Windows windows;
    bool channels_last;
    bool bfloat16;  // else float32: grad and input_grad
    bool wide_offsets;
    const void* grad;
    const void* offsets;
    void* input_grad;
    float* workspace;  // H * W floats a thread, for NCHW of bfloat16
    int threads;
};

template <Isa>
std::int64_t workspace(const Windows& windows);
template <Isa>
void forward(const Forward& call);
template <Isa>
void backward(const Backward& call);

}  // namespace alexkern::max_pool2d
