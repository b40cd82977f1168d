// Images cut out, resized, flipped and normalised: sample_straight of alexkern/backends/torch/augment.py, in one pass.
#pragma once

#include <cstdint>

#include "../isa.h"

namespace alexkern::augment {

// A window of an image is resized to rows x columns, of which the output shows P x Q from (row, column) on.
struct Part {
    std::int64_t top, bottom, left, right, rows, columns, row, column, flip;
};

struct Call {
    std::int64_t N, H, W, P, Q;
    std::int64_t shown_p, shown_q;    // of P x Q the output has no more
    std::int64_t stride_n, stride_p;  // of the output, whose pixels lie side by side
    const std::uint8_t* images;       // (N, H, W, 3)
    const Part* parts;                // (N)
    float* output;
    float* workspace;  // `workspace` floats a thread
    int threads;
    float scale[3], shift[3];  // a channel's value is its byte * scale + shift
};

// How many floats of workspace a thread needs.
template <Isa>
std::int64_t workspace(const Call& call);

template <Isa>
void run(const Call& call);

}  // namespace alexkern::augment
