// The convolution, and the data gradient, with bias and ReLU: a block's tile of one product, and its way out. Its rung
// is examples/ladder/4_tensor_core.cu; it adds larger tiles, TF32 and IEEE arithmetic, splits, strides and groups, and
// steps without a division.
#include <algorithm>

#include "convolve.cuh"

namespace alexkern::conv2d_relu {
namespace {

template <typename Arithmetic, typename Shape, int kCopyBytes>
__global__ void __launch_bounds__(Shape::kThreads, ConvolveTile<Arithmetic, Shape, kCopyBytes>::kBlocks)
    convolve_kernel(const __grid_constant__ ConvolveParams p) {
    using Tile = ConvolveTile<Arithmetic, Shape, kCopyBytes>;
    const Image& output = p.output;
    // The grid, innermost first: filters, so that neighbours share the pixels they gather; rows; splits; residues;
    // groups.
    const int tiles_n = divide_up(p.K, Tile::kBlockN);
    const int residues_h = residues_of(p.vertical, p.transposed, output.H);
    const int residues_w = residues_of(p.horizontal, p.transposed, output.W);
    const int most_h = divide_up(output.H, residues_h), most_w = divide_up(output.W, residues_w);
    const unsigned tiles_m = static_cast<unsigned>(
        divide_up<std::int64_t>(static_cast<std::int64_t>(output.N) * most_h * most_w, Tile::kBlockM));
    unsigned block = blockIdx.x;
    const int first_n = static_cast<int>(block % tiles_n) * Tile::kBlockN;
    block /= tiles_n;
    const std::int64_t first_m = static_cast<std::int64_t>(block % tiles_m) * Tile::kBlockM;
    block /= tiles_m;
    const int split = static_cast<int>(block % p.choice.splits);
    block /= p.choice.splits;
    const Taps horizontal = taps_of(p.horizontal, p.transposed, static_cast<int>(block % residues_w), output.W, p.S);
    block /= residues_w;
    const Taps vertical = taps_of(p.vertical, p.transposed, static_cast<int>(block % residues_h), output.H, p.R);
    const int group = static_cast<int>(block / residues_h);

    const int pixels = vertical.outputs * horizontal.outputs;  // of an image
    const std::int64_t gemm_m = static_cast<std::int64_t>(output.N) * pixels;
    if (first_m >= gemm_m) return;  // residues differ in size

    unsigned char* shared = ptx::dynamic_shared_memory<unsigned char>();
    Pixel* const table = Tile::table(shared);
    for (int row = threadIdx.x; row < Tile::kBlockM; row += Tile::kThreads) {
        const std::int64_t m = first_m + row;
        const int n = static_cast<int>(m / pixels), pixel = static_cast<int>(m % pixels);
        table[row] = {m < gemm_m ? n : -1, pixel / horizontal.outputs, pixel % horizontal.outputs};
    }
    Tile::load_bias(shared, p, group, first_n);
    __syncthreads();

    typename Tile::Sums sums;
    Tile::multiply(sums, shared, p, {vertical, horizontal, group, first_n, split, p.choice.splits});

    const auto placed = [&](int m) {
        const Pixel pixel = table[m];
        return Pixel{pixel.n, vertical.first_output + pixel.h * vertical.output_step,
                     horizontal.first_output + pixel.w * horizontal.output_step};
    };
    if (p.partials != nullptr) {
        mma::for_each_pair<Shape>(sums, [&](int m, int n, float first, float second) {
            const Pixel pixel = placed(m);
            if (pixel.n < 0 || first_n + n >= p.padded_K) return;
            std::int64_t at = static_cast<std::int64_t>(split) * output.N + pixel.n;
            at = (at * output.H + pixel.h) * output.W + pixel.w;
            at = (at * p.groups + group) * p.padded_K + first_n + n;
            *reinterpret_cast<float2*>(p.partials + at) = make_float2(first, second);
        });
        return;
    }
    Tile::stage(shared, sums, p.relu);
    __syncthreads();
    typename Tile::Out{shared}.template store<Tile::kThreads>(output, group * p.K + first_n,
                                                              min(p.K - first_n, Tile::kBlockN), placed);
}

}  // namespace

void convolve(Arithmetic arithmetic, const ConvolveParams& params, Stream stream) {
    const Image& output = params.output;
    const int residues_h = residues_of(params.vertical, params.transposed, output.H);
    const int residues_w = residues_of(params.horizontal, params.transposed, output.W);
    const std::int64_t gemm_m =
        static_cast<std::int64_t>(output.N) * divide_up(output.H, residues_h) * divide_up(output.W, residues_w);
    if (gemm_m == 0) return;
    with_instantiation(arithmetic, params.choice.tile, params.C, [&](auto arithmetic_tag, auto shape, auto copy_bytes) {
        using Shape = decltype(shape);
        using Tile = ConvolveTile<decltype(arithmetic_tag), Shape, decltype(copy_bytes)::value>;
        const std::int64_t pixels = std::int64_t{output.H / residues_h} * (output.W / residues_w);
        Tile::check_reach(params,
                          std::min<std::int64_t>(output.N, Shape::kBlockM / std::max<std::int64_t>(pixels, 1) + 2));
        const std::int64_t blocks = divide_up<std::int64_t>(gemm_m, Shape::kBlockM) *
                                    divide_up(params.K, Shape::kBlockN) * params.choice.splits * residues_h *
                                    residues_w * params.groups;
        ptx::launch(params.transposed ? "conv2d_relu's data gradient" : "conv2d_relu",
                    convolve_kernel<decltype(arithmetic_tag), Shape, decltype(copy_bytes)::value>,
                    grid_of(blocks, "the convolution"), Shape::kThreads, Tile::kSharedBytes, stream, params);
    });
}

}  // namespace alexkern::conv2d_relu
