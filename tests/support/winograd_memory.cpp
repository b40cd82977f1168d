// Runs csrc/cpu/winograd over shapes of all kinds, every array allocated apart and exactly as long as it is.
#include <cstdio>
#include <cstdlib>
#include <new>
#include <vector>

#include "winograd/winograd.h"

using alexkern::winograd::Shape;

namespace {

struct Free {
    float* data;
    ~Free() { std::free(data); }
};

Free floats(std::int64_t count) {
    void* data = nullptr;
    if (posix_memalign(&data, 64, count * sizeof(float) + !count) != 0) throw std::bad_alloc();
    for (std::int64_t i = 0; i < count; ++i) static_cast<float*>(data)[i] = static_cast<float>(i % 7) - 3;
    return {static_cast<float*>(data)};
}

void run(const Shape& shape, int threads, bool with_bias) {
    const int P = shape.H + 2 * shape.padding_h - shape.R + 1, Q = shape.W + 2 * shape.padding_w - shape.R + 1;
    const std::int64_t C = shape.C * shape.groups, K = shape.K * shape.groups, points = (shape.R + 1) * (shape.R + 1);
    const Free input = floats(shape.N * shape.H * shape.W * C), weight = floats(K * shape.C * shape.R * shape.R);
    const Free filters = floats(points * shape.C * K), bias = floats(K), output = floats(shape.N * P * Q * K);
    const Free workspace = floats(threads * alexkern::winograd::workspace(shape));
    alexkern::winograd::pack(shape, weight.data, filters.data);
    alexkern::winograd::convolve(shape, input.data, filters.data, with_bias ? bias.data : nullptr, true, output.data,
                                 workspace.data, threads);
}

}  // namespace

int main() {
    int count = 0;
    for (const int R : {3, 5}) {
        const int pad = R / 2;
        const std::vector<Shape> shapes = {
            {1, 16, R, R, 32, R, 0, 0, 1},     {2, 32, 13, 13, 64, R, pad, pad, 1}, {3, 48, 8, 7, 32, R, pad, 0, 2},
            {1, 16, 1, 1, 32, R, pad, pad, 3}, {1, 16, R, 2, 96, R, R, R + 1, 1},   {9, 16, 14, 5, 32, R, pad, 1, 1},
        };
        for (const Shape& shape : shapes) {
            run(shape, 1 + count % 3, count % 2 == 0);
            ++count;
        }
    }
    run({0, 16, 4, 4, 32, 3, 1, 1, 1}, 2, true);
    std::printf("%d shapes\n", count + 1);
}
