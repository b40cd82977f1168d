// Winograd's F(2x2, RxR), on vectors of 16 floats (AVX-512). A tile is 2x2 outputs of one image; it reads P x P pixels,
// P = R + 1, which it shares with its neighbours. A thread takes a block of tiles at a time:
//
//   points    [P][P][C / 16][block][16]   B^T d B of every tile and channel: half of the L2 cache
//   products  [P][P][block][32]           points x filters
//   outputs   [2][2][32] of every tile    A^T products A + bias, ReLU
//
// the last two for one panel of 32 output channels after the other. The products are P^2 matrix products of [block, C]
// by [C, 32], 14 tiles by 32 channels in registers: 28 of the 32 registers are sums, which hides the latency of a
// multiply-add (4 cycles at 2 a cycle) three times over. Filters, [K / 32][P][P][C][32], are read in order, once a
// block, and fetched into the L2 cache one [C, 32] ahead of their use. A sum has C terms where the convolution's has
// C R^2, and the ways to the points and back amplify its rounding error: docs/snapshots.md has both in figures.
#include "winograd.h"

#if defined(__x86_64__) && defined(_OPENMP)
#define ALEXKERN_HOST_KERNELS
#include <immintrin.h>
#include <omp.h>
#endif
#include <unistd.h>

#include <algorithm>

#include "matrices.h"

namespace alexkern::winograd {

namespace {

constexpr int ROWS = 14;           // tiles in registers
constexpr int LONGEST_BLOCK = 56;  // tiles: reading the filters once a block then costs little

int square(int x) { return x * x; }
int ceil_div(int x, int y) { return (x + y - 1) / y; }

// Tiles of 2x2 outputs, over all images.
int tile_count(const Shape& shape) {
    const int height = shape.H + 2 * shape.padding_h - shape.R + 1, width = shape.W + 2 * shape.padding_w - shape.R + 1;
    return shape.N * ceil_div(height, 2) * ceil_div(width, 2);
}

// Blocks as long as the cache allows, and then of equal length.
int block_length(const Shape& shape) {
    static const long l2_bytes = std::max(1L << 20, sysconf(_SC_LEVEL2_CACHE_SIZE));  // 0 or -1 where it is not known
    const long bytes_of_tile = square(shape.R + 1) * shape.C * sizeof(float);
    const int longest = std::clamp<long>(l2_bytes / 2 / bytes_of_tile, ROWS, LONGEST_BLOCK);
    const int tiles = std::max(1, tile_count(shape)), blocks = ceil_div(tiles, longest);
    return ceil_div(ceil_div(tiles, blocks), ROWS / 2) * (ROWS / 2);
}

template <int R>
void pack_filters(const Shape& shape, const float* weight, float* filters) {
    constexpr int P = R + 1;
    constexpr auto& G = matrices<R>.G;
    const std::int64_t K = std::int64_t(shape.groups) * shape.K;
    for (std::int64_t k = 0; k < K; ++k) {
        for (int c = 0; c < shape.C; ++c, weight += R * R) {
            double half[P][R] = {};  // G filter
            for (int i = 0; i < P; ++i)
                for (int s = 0; s < R; ++s)
                    for (int r = 0; r < R; ++r) half[i][s] += G[i][r] * weight[r * R + s];
            for (int i = 0; i < P; ++i) {
                for (int j = 0; j < P; ++j) {
                    double value = 0;  // of G filter G^T
                    for (int s = 0; s < R; ++s) value += half[i][s] * G[j][s];
                    const std::int64_t panel = k / FILTERS * P * P + i * P + j;
                    filters[(panel * shape.C + c) * FILTERS + k % FILTERS] = static_cast<float>(value);
                }
            }
        }
    }
}

}  // namespace

void pack(const Shape& shape, const float* weight, float* filters) {
    shape.R == 3 ? pack_filters<3>(shape, weight, filters) : pack_filters<5>(shape, weight, filters);
}

std::int64_t workspace(const Shape& shape) {
    return std::int64_t(square(shape.R + 1)) * block_length(shape) * (shape.C + FILTERS);
}

#ifdef ALEXKERN_HOST_KERNELS

#define AVX512 __attribute__((target("avx512f")))

namespace {

using Vector = __m512;

// A call, with the sizes that follow from its shape.
struct Call {
    const Shape& shape;
    const float *input, *filters, *bias;
    bool relu;
    float* output;
    int height = shape.H + 2 * shape.padding_h - shape.R + 1, width = shape.W + 2 * shape.padding_w - shape.R + 1;
    int down = ceil_div(height, 2), across = ceil_div(width, 2);  // tiles
    int tiles = tile_count(shape), block = block_length(shape);
    std::int64_t K = std::int64_t(shape.groups) * shape.K;
};

// Where tile number `tile` begins: its image, and its first output's row and column.
struct Corner {
    int n, row, column;
    Corner(const Call& call, int tile)
        : n(tile / (call.across * call.down)),
          row(tile / call.across % call.down * 2),
          column(tile % call.across * 2) {}
};

// result[i] = sum of matrix[i][j] x[j * step]. Loops over constants: unrolled, and without the zeros of the matrix.
template <int COUNT, int P>
AVX512 inline void multiply(const double (&matrix)[COUNT][P], const Vector* x, int step, Vector* result) {
#pragma GCC unroll 8
    for (int i = 0; i < COUNT; ++i) {
        Vector sum = _mm512_setzero_ps();
#pragma GCC unroll 8
        for (int j = 0; j < P; ++j) {
            if (matrix[i][j] != 0) sum += static_cast<float>(matrix[i][j]) * x[j * step];
        }
        result[i] = sum;
    }
}

// B^T d B for every 16 channels of one tile, (C / 16, block, 16) apart from point to point.
template <int R>
AVX512 void to_points(const Call& call, const Corner& corner, int group, float* points) {
    constexpr int P = R + 1;
    const Shape& shape = call.shape;
    alignas(64) static const float outside[CHANNELS] = {};
    const float* pixels[P][P];
    int step[P][P];  // from one channel to the next: 0 in the padding, where all read the same zeros
    for (int i = 0; i < P; ++i) {
        for (int j = 0; j < P; ++j) {
            const int h = corner.row - shape.padding_h + i, w = corner.column - shape.padding_w + j;
            const bool inside = h >= 0 && h < shape.H && w >= 0 && w < shape.W;
            const std::int64_t pixel = (std::int64_t(corner.n) * shape.H + h) * shape.W + w;
            pixels[i][j] = inside ? call.input + (pixel * shape.groups + group) * shape.C : outside;
            step[i][j] = inside;
        }
    }
    for (int c = 0; c < shape.C; c += CHANNELS) {
        Vector half[P][P];  // B^T d, column after column
        for (int j = 0; j < P; ++j) {
            Vector column[P];
            for (int i = 0; i < P; ++i) column[i] = _mm512_loadu_ps(pixels[i][j] + c * step[i][j]);
            multiply(matrices<R>.B, column, 1, half[j]);
        }
        for (int i = 0; i < P; ++i) {
            Vector row[P];
            multiply(matrices<R>.B, &half[0][i], P, row);
            for (int j = 0; j < P; ++j)
                _mm512_store_ps(points + (std::int64_t(i * P + j) * shape.C + c) * call.block, row[j]);
        }
    }
}

// products (COUNT, 32) = points (COUNT, C) @ filters (C, 32); `ahead` are the lines to fetch for later, some with every
// 16 channels.
template <int COUNT>
AVX512 void multiply_tiles(int C, const float* points, int block, const float* filters, const float* ahead, int lines,
                           float* products) {
    constexpr int LINE = 16;
    Vector sums[COUNT][2];
#pragma GCC unroll 16
    for (int t = 0; t < COUNT; ++t) sums[t][0] = sums[t][1] = _mm512_setzero_ps();
    for (int c = 0; c < C; c += CHANNELS) {
        for (int line = 0; line < lines; ++line, ahead += LINE) _mm_prefetch(ahead, _MM_HINT_T1);
#pragma GCC unroll 16
        for (int k = 0; k < CHANNELS; ++k) {
            const Vector low = _mm512_load_ps(filters + k * FILTERS), high = _mm512_load_ps(filters + k * FILTERS + 16);
#pragma GCC unroll 16
            for (int t = 0; t < COUNT; ++t) {
                const Vector point = _mm512_set1_ps(points[t * CHANNELS + k]);
                sums[t][0] = _mm512_fmadd_ps(point, low, sums[t][0]);
                sums[t][1] = _mm512_fmadd_ps(point, high, sums[t][1]);
            }
        }
        points += std::int64_t(block) * CHANNELS;
        filters += CHANNELS * FILTERS;
    }
#pragma GCC unroll 16
    for (int t = 0; t < COUNT; ++t) {
        _mm512_store_ps(products + t * FILTERS, sums[t][0]);
        _mm512_store_ps(products + t * FILTERS + 16, sums[t][1]);
    }
}

// The outputs of one tile in 16 channels, of which the first is number k: A^T products A + bias, ReLU. `check` becomes
// NaN where one is not finite.
template <int R>
AVX512 inline void to_outputs(const Call& call, const Corner& corner, int k, const float* products, Vector& check) {
    constexpr int P = R + 1;
    const Vector zero = _mm512_setzero_ps(), bias = call.bias ? _mm512_loadu_ps(call.bias + k) : zero;
    Vector half[P][2];  // A^T products, column after column
    for (int j = 0; j < P; ++j) {
        Vector column[P];
        for (int i = 0; i < P; ++i)
            column[i] = _mm512_load_ps(products + std::int64_t(i * P + j) * call.block * FILTERS);
        multiply(matrices<R>.A, column, 1, half[j]);
    }
    for (int i = 0; i < 2 && corner.row + i < call.height; ++i) {
        Vector row[2];
        multiply(matrices<R>.A, &half[0][i], 2, row);
        const std::int64_t pixel = (std::int64_t(corner.n) * call.height + corner.row + i) * call.width + corner.column;
        for (int j = 0; j < 2 && corner.column + j < call.width; ++j) {
            Vector value = row[j] + bias;
            check = _mm512_fmadd_ps(value, zero, check);
            if (call.relu) value = value < zero ? zero : value;
            _mm512_storeu_ps(call.output + (pixel + j) * call.K + k, value);
        }
    }
}

// The block of tiles from `first` on, for panels of 32 filters, which count through all groups. Whether all is finite.
template <int R>
AVX512 bool convolve_block(const Call& call, int first, int group, int panel, int panels_end, float* points) {
    constexpr int P = R + 1;
    const int C = call.shape.C, tiles = std::min(call.block, call.tiles - first);
    const std::int64_t panel_size = std::int64_t(C) * FILTERS, points_size = std::int64_t(C) * call.block;
    float* products = points + P * P * points_size;
    for (int t = 0; t < tiles; ++t) to_points<R>(call, Corner(call, first + t), group, points + t * CHANNELS);

    // The panel after the one in use is fetched in as many equal parts as there are passes over that.
    const int passes = ceil_div(tiles, ROWS), lines = ceil_div(2 * CHANNELS, passes);
    Vector check = _mm512_setzero_ps();
    for (; panel < panels_end; ++panel) {
        for (int p = 0; p < P * P; ++p) {
            const float* filters = call.filters + (std::int64_t(panel) * P * P + p) * panel_size;
            for (int pass = 0; pass < passes; ++pass) {
                const int t = pass * ROWS;
                const float* from = points + p * points_size + t * CHANNELS;
                const float* ahead = filters + panel_size + std::int64_t(pass) * lines * C;
                float* to = products + (p * call.block + t) * FILTERS;
                if (tiles - t > ROWS / 2) {
                    multiply_tiles<ROWS>(C, from, call.block, filters, ahead, lines, to);
                } else {
                    multiply_tiles<ROWS / 2>(C, from, call.block, filters, ahead, lines, to);
                }
            }
        }
        for (int t = 0; t < tiles; ++t) {
            for (int k = 0; k < FILTERS; k += 16)
                to_outputs<R>(call, Corner(call, first + t), panel * FILTERS + k, products + t * FILTERS + k, check);
        }
    }
    return _mm512_cmp_ps_mask(check, check, _CMP_UNORD_Q) == 0;
}

template <int R>
bool convolve_all(const Call& call, float* space, int threads) {
    const int groups = call.shape.groups, panels = call.shape.K / FILTERS;
    const int blocks = ceil_div(call.tiles, call.block);
    // Few blocks are shared out by their filters as well, though each part then goes to the points for itself.
    int parts = 1;
    while (blocks * groups * parts % threads != 0 && blocks * groups * parts < 4 * threads && parts < panels) ++parts;
    bool finite = true;
#pragma omp parallel for num_threads(threads) schedule(static) reduction(&& : finite)
    for (int unit = 0; unit < blocks * groups * parts; ++unit) {
        const int part = unit % parts, group = unit / parts % groups, first = unit / parts / groups * call.block;
        const int begin = group * panels + part * panels / parts, end = group * panels + (part + 1) * panels / parts;
        float* own = space + omp_get_thread_num() * workspace(call.shape);
        finite = convolve_block<R>(call, first, group, begin, end, own) && finite;
    }
    return finite;
}

}  // namespace

bool is_supported() { return __builtin_cpu_supports("avx512f"); }

bool convolve(const Shape& shape, const float* input, const float* filters, const float* bias, bool relu, float* output,
              float* workspace, int threads) {
    const Call call{shape, input, filters, bias, relu, output};
    return shape.R == 3 ? convolve_all<3>(call, workspace, threads) : convolve_all<5>(call, workspace, threads);
}

#else

bool is_supported() { return false; }

bool convolve(const Shape&, const float*, const float*, const float*, bool, float*, float*, int) { return false; }

#endif

}  // namespace alexkern::winograd
