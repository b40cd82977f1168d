// Runs csrc/cpu for one instruction set over shapes of all kinds, every array allocated apart and exactly as long as it
// is.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "augment/augment.h"
#include "dropout/dropout.h"
#include "limits/limits.h"
#include "linear_relu_dropout/linear_relu_dropout.h"
#include "local_response_norm/local_response_norm.h"
#include "max_pool2d/max_pool2d.h"
#include "winograd/winograd.h"

#define TEXT_OF(name) #name
#define TEXT(name) TEXT_OF(name)

namespace alexkern {

const char* last_kernel = "";

namespace {

constexpr int THREADS = 3;
constexpr Isa OWN = Isa::ALEXKERN_ISA;

std::vector<float> floats(std::int64_t count) {
    std::vector<float> values(count);
    for (std::int64_t i = 0; i < count; ++i) values[i] = static_cast<float>(i * 7 % 13) - 6;
    return values;
}

// The upper halves of those: bfloat16.
std::vector<std::uint16_t> halves(std::int64_t count) {
    std::vector<std::uint16_t> values;
    for (const float value : floats(count)) {
        std::uint32_t word;
        std::memcpy(&word, &value, sizeof(word));
        values.push_back(word >> 16);
    }
    return values;
}

template <typename Number>
std::vector<Number> numbers(std::int64_t count) {
    if constexpr (sizeof(Number) == 2) {
        return halves(count);
    } else {
        return floats(count);
    }
}

template <typename Number>
constexpr bool NARROW = sizeof(Number) == 2;

template <typename Number, typename Offset>
void pool_in(const max_pool2d::Windows& at, bool channels_last, bool relu) {
    const std::int64_t pixels = at.N * at.C * at.H * at.W, windows = at.N * at.C * at.P * at.Q;
    const bool wide = sizeof(Offset) == 4;
    const bool narrow = NARROW<Number>;
    std::vector<Number> input = numbers<Number>(pixels), output(windows), gradient(pixels);
    std::vector<float> sums(channels_last || !narrow ? 0 : THREADS * at.H * at.W);
    std::vector<float> workspace(channels_last ? 0 : THREADS * max_pool2d::workspace<OWN>(at));
    std::vector<Offset> offsets(windows);
    max_pool2d::forward<OWN>({at, channels_last, narrow, relu, wide, input.data(), output.data(), offsets.data(),
                              workspace.data(), THREADS});
    max_pool2d::forward<OWN>(
        {at, channels_last, narrow, relu, wide, input.data(), output.data(), nullptr, workspace.data(), 1});
    max_pool2d::backward<OWN>(
        {at, channels_last, narrow, wide, output.data(), offsets.data(), gradient.data(), sums.data(), THREADS});
    for (Offset& offset : offsets) offset = static_cast<Offset>(-1);  // names no pixel
    max_pool2d::backward<OWN>(
        {at, channels_last, narrow, wide, output.data(), offsets.data(), gradient.data(), sums.data(), THREADS});
    for (const Number value : gradient) {
        if (value != 0) std::abort();
    }
}

template <typename Offset>
void pool(const max_pool2d::Windows& at, bool channels_last, bool relu) {
    pool_in<float, Offset>(at, channels_last, relu);
    pool_in<std::uint16_t, Offset>(at, channels_last, relu);
}

template <typename Number>
void norm_in(std::int64_t N, std::int64_t C, std::int64_t L, std::int64_t size, bool channels_last, float beta) {
    std::vector<Number> input = numbers<Number>(N * C * L), grad = input, result(N * C * L);
    local_response_norm::Call call{N,
                                   C,
                                   L,
                                   C * L,
                                   channels_last ? 1 : L,
                                   channels_last ? C : 1,
                                   size,
                                   0.1f,
                                   beta,
                                   2,
                                   NARROW<Number>,
                                   input.data(),
                                   nullptr,
                                   result.data(),
                                   nullptr,
                                   THREADS};
    std::vector<float> workspace(THREADS * local_response_norm::workspace<OWN>(C, call.stride_c, size));
    call.workspace = workspace.data();
    local_response_norm::run<OWN>(call);
    call.grad = grad.data();
    local_response_norm::run<OWN>(call);
}

void norm(std::int64_t N, std::int64_t C, std::int64_t L, std::int64_t size, bool channels_last, float beta) {
    norm_in<float>(N, C, L, size, channels_last, beta);
    norm_in<std::uint16_t>(N, C, L, size, channels_last, beta);
}

template <typename Number>
void drop(std::int64_t count) {
    std::vector<Number> input = numbers<Number>(count), output(count);
    std::vector<std::uint8_t> mask((count + 7) / 8);
    const bool narrow = NARROW<Number>;
    dropout::run<OWN>(
        {narrow, input.data(), output.data(), mask.data(), count, 5, ~0ull, 1ull << 31, 2, count % 2 == 0, THREADS});
    dropout::run<OWN>({narrow, input.data(), input.data(), nullptr, count, 5, 7, 1ull << 32, 0, false, THREADS});
    dropout::run<OWN>(dropout::Masked{narrow, input.data(), output.data(), mask.data(), count, 2, THREADS});
}

void linear(std::int64_t N, std::int64_t C, std::int64_t K) {
    const linear_relu_dropout::Sizes at{N, C, K};
    const std::vector<float> input = floats(N * C), weight = floats(K * C), bias = floats(K), grad = floats(N * K);
    std::vector<float> output(N * K), input_grad(N * C), weight_grad(K * C), bias_grad(K);
    std::vector<float> workspace(linear_relu_dropout::workspace<OWN>(at, THREADS));
    const std::vector<std::uint8_t> mask((N * K + 7) / 8, 0x5A);
    for (const bool relu : {false, true}) {
        linear_relu_dropout::forward<OWN>({at, false, input.data(), weight.data(), relu ? bias.data() : nullptr, relu,
                                           output.data(), workspace.data(), THREADS});
        linear_relu_dropout::backward<OWN>(
            {at, grad.data(), relu ? output.data() : nullptr, relu ? nullptr : mask.data(), 2, input.data(),
             weight.data(), input_grad.data(), weight_grad.data(), bias_grad.data(), workspace.data(), THREADS});
    }
    if (N > linear_relu_dropout::MOST_ROWS_BFLOAT16) return;
    const std::vector<std::uint16_t> half_input = halves(N * C), half_weight = halves(K * C), half_bias = halves(K);
    std::vector<std::uint16_t> half_output(N * K);
    linear_relu_dropout::forward<OWN>({at, true, half_input.data(), half_weight.data(), half_bias.data(), true,
                                       half_output.data(), workspace.data(), THREADS});
}

void cut_out(std::int64_t H, std::int64_t W, const augment::Part& part, std::int64_t P, std::int64_t Q) {
    std::vector<std::uint8_t> images(2 * H * W * 3, 255);
    std::vector<float> output(2 * P * Q * 3);
    const std::vector<augment::Part> parts(2, part);
    augment::Call call{
        2,       H,       W,         P, Q, P, Q, P * Q * 3, Q * 3, images.data(), parts.data(), output.data(),
        nullptr, THREADS, {1, 1, 1}, {}};
    std::vector<float> workspace(THREADS * augment::workspace<OWN>(call));
    call.workspace = workspace.data();
    augment::run<OWN>(call);
    for (const float value : output) {
        if (value < 254.99f || value > 255.01f) std::abort();  // as every mean of 255 is
    }
}

// Of filters of R x R pixels, or with a stride of as many blocks but for a row and a column.
winograd::Shape shape(std::int64_t N, std::int64_t C, std::int64_t H, std::int64_t W, std::int64_t K, std::int64_t R,
                      std::int64_t padding_h, std::int64_t padding_w, std::int64_t groups, std::int64_t stride = 1) {
    const std::int64_t size = stride == 1 ? R : R * stride - 1;
    const std::int64_t P = (H + 2 * padding_h - size) / stride + 1, Q = (W + 2 * padding_w - size) / stride + 1;
    return {N, C * stride * stride, H, W, K, R, padding_h, padding_w, groups, stride, P, Q};
}

// All orders of a weight in memory, packed before or by the convolution, both formats of images, with and without what
// may be missing, and what is pooled image by image.
template <typename Number>
void convolve_in(winograd::Shape at) {
    at.bfloat16 = NARROW<Number>;
    const bool has_forward = !at.bfloat16 || at.R == 3;
    const std::int64_t taps = at.R * at.R, points = at.points(), K = at.groups * at.K;
    const std::int64_t pixels = at.N * at.groups * at.C / (at.stride * at.stride) * at.H * at.W;
    const std::int64_t panels = (at.K + winograd::FILTERS - 1) / winograd::FILTERS;
    const std::int64_t channels = at.bfloat16 ? at.C + at.C % 2 : at.C;
    const std::vector<Number> input = numbers<Number>(pixels), bias = numbers<Number>(K);
    const std::vector<Number> weight = numbers<Number>(K * at.C * taps);
    std::vector<Number> filters(at.groups * panels * points * channels * winograd::FILTERS);
    std::vector<Number> output(at.N * K * at.P * at.Q);
    std::vector<float> workspace(THREADS * winograd::workspace<OWN>(at, nullptr));
    const std::int64_t steps[][3] = {
        {at.C * taps, taps, 1}, {at.C * taps, 1, at.C}, {taps, at.K * taps, 1}, {1, at.K * taps, at.K}};
    for (const bool channels_last : {false, true}) {
        if (at.stride > 1 && !channels_last) continue;
        winograd::Convolution call{at,      channels_last, input.data(),  input.data(),     filters.data(), nullptr,
                                   nullptr, true,          output.data(), workspace.data(), THREADS,        nullptr};
        for (const auto& step : steps) {
            if (!has_forward) break;
            const winograd::Weight of{weight.data(), at.K * at.C * taps, step[0], step[1], step[2], step[0] == taps};
            winograd::pack<OWN>({at, of, filters.data(), THREADS});
            call.weight = &of;
            winograd::convolve<OWN>(call);
        }
        call.weight = nullptr;
        call.gate = nullptr;
        call.bias = bias.data();
        call.relu = false;
        call.threads = 1;
        if (has_forward) winograd::convolve<OWN>(call);
        const std::int64_t R = at.P > 1 ? 2 : 1, S = at.Q > 2 ? 3 : 1, P = at.P - R + 1, Q = at.Q - S + 1;
        std::vector<Number> pooled(at.N * K * P * Q);
        std::vector<std::uint8_t> offsets(pooled.size());
        const max_pool2d::Windows windows{1, K, at.P, at.Q, P, Q, R, S, 1, 1, 0, 0, 1, 1};
        const max_pool2d::Forward pool{windows, channels_last, at.bfloat16,    true,    false,
                                       nullptr, pooled.data(), offsets.data(), nullptr, 1};
        std::vector<float> image(THREADS * winograd::workspace<OWN>(at, &pool));
        call.pool = &pool;
        call.output = nullptr;
        call.workspace = image.data();
        call.threads = THREADS;
        if (has_forward) winograd::convolve<OWN>(call);
        if (at.M == 4) continue;
        std::vector<Number> weight_grad(weight.size());
        std::vector<float> space(winograd::weight_grad_workspace<OWN>(at, THREADS));
        winograd::weight_grad<OWN>(
            {at, channels_last, input.data(), output.data(), weight_grad.data(), space.data(), THREADS});
    }
}

void convolve(winograd::Shape at) {
    convolve_in<float>(at);
#if defined(__AVX512BF16__)
    convolve_in<std::uint16_t>(at);
#endif
    at.M = 4;
    if (at.R == 3) convolve_in<float>(at);
}

}  // namespace
}  // namespace alexkern

int main() {
    using namespace alexkern;
    for (const bool channels_last : {false, true}) {
        for (const std::int64_t C : {1, 3, 17, 64, 70}) {
            pool<std::uint8_t>({2, C, 9, 11, 4, 5, 3, 3, 2, 2, 0, 0, 1, 1}, channels_last, C % 2 == 0);
            pool<std::uint8_t>({2, C, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 1, 1}, channels_last, true);
            pool<std::uint8_t>({1, C, 2, 3, 3, 4, 6, 8, 1, 1, 3, 4, 1, 1}, channels_last, false);
            pool<std::uint8_t>({1, C, 13, 50, 3, 16, 2, 4, 5, 3, 1, 2, 3, 2}, channels_last, false);
            pool<std::int32_t>({2, C, 20, 19, 7, 10, 17, 17, 3, 2, 8, 8, 1, 1}, channels_last, false);
            pool<std::uint8_t>({3, C, 41, 57, 20, 28, 3, 3, 2, 2, 0, 0, 1, 1}, channels_last, true);
            for (const std::int64_t size : {1, 4, 5, 200}) {
                norm(2, C, 35, size, channels_last, 0.75f);
                norm(3, C, 1, size, channels_last, 0.6f);
                norm(2, C, 900, size, channels_last, 0.75f);
            }
        }
    }
    for (const std::int64_t W : {1, 2, 7, 16, 33, 90}) {
        for (const std::int64_t flip : {0, 1}) {
            cut_out(9, W, {0, 9, 0, W, 4, W, 0, 0, flip}, 4, W);
            cut_out(90, W, {3, 90, 0, W, 30, 20, 7, 0, flip}, 23, 20);
            cut_out(5, W, {4, 5, W - 1, W, 80, 70, 11, 13, flip}, 69, 57);
        }
    }
    for (const std::int64_t count : {1, 3, 63, 64, 65, 100003}) {
        drop<float>(count);
        drop<std::uint16_t>(count);
    }
    for (const std::int64_t N : {1, 4, 5, 8, 9, 33, 128}) {
        for (const std::int64_t C : {1, 3, 17, 48, 385, 800}) {
            for (const std::int64_t K : {1, 5, 16, 37}) linear(N, C, K);
        }
    }
    for (const std::int64_t R : {3, 5}) {
        for (const std::int64_t C : {1, 3, 17, 40}) {
            for (const std::int64_t K : {1, 7, 33}) convolve(shape(2, C, 7, 9, K, R, R / 2, R / 2, 2));
            convolve(shape(1, C, R, R, 5, R, 0, 0, 1));
            convolve(shape(1, C, R, 2, 5, R, R + 1, R + 2, 1));
            convolve(shape(2, C, R + 3, 5, 5, R, -1, 0, 1));  // of the gradient, with padding beyond the filter
        }
        convolve(shape(4, 48, 14, 41, 40, R, R / 2, R / 2, 1));  // tiles enough for two parts of a gradient
        convolve(shape(2, 3, 39, 31, 33, R, 2, 1, 1, 4));
    }
    linear(3, 2048, 1024);  // past the caches, at an address that may be none for it
    linear(128, 4133, 37);  // an input in three parts
    std::vector<float> from = floats(992);
    auto* to = static_cast<float*>(std::aligned_alloc(64, 992 * sizeof(float)));
    limits::stream_through<OWN>(from.data(), to, 992, THREADS);
    std::free(to);
    if (limits::multiply_add<OWN>(10, THREADS) <= 0) std::abort();
    std::printf("%s: all clean\n", TEXT(ALEXKERN_ISA));
}
