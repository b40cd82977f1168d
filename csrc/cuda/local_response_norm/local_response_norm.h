// local_response_norm across channels: y = x * w with w = e**-beta, and
//     e[c] = k + alpha * sum of x[i]**2 over i from c - size / 2 to c + (size - 1) / 2, those that exist.
// Gradient, written (=) once: dx[c] = dy[c] * w[c] - 2 * alpha * beta * x[c] * sum of dy[i] * y[i] / e[i] over the
// channels i whose window c stands in. Sums run from the lowest channel up, in fp32; one rounding at the end.
#pragma once

#include <cstdint>

#include "../elements.h"

namespace alexkern::local_response_norm {

// Every tensor is (N, C, L): L pixels of one stride. All have the strides below, in elements.
struct Params {
    Element element;
    const void* input;
    const void* grad;  // null for the output
    void* result;      // the output, or the input's gradient
    float* shared;     // dy * y / e: a workspace of backward, where needs_workspace asks for one, else null
    std::int64_t N, L;
    int C;
    std::int64_t stride_n, stride_c, stride_l;
    int size;
    float alpha, beta, k;  // alpha already divided by size
};

// Whether backward takes two passes with the workspace between them: for sizes and exponents that no kernel keeps in
// registers.
bool needs_workspace(int size, float beta);

// The output, or the gradient where there is a `grad`.
void run(const Params& params, Stream stream);

}  // namespace alexkern::local_response_norm
