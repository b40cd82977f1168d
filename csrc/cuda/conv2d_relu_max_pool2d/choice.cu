// One kernel or two, and the tile of the one: FLOPs that run twice and a longer epilogue against bytes that do not
// move.
#include <algorithm>

#include "../conv2d_relu/model.h"
#include "../conv2d_relu/traits.cuh"
#include "conv2d_relu_max_pool2d.h"

namespace alexkern::conv2d_relu_max_pool2d {
namespace {

using conv2d_relu::divide_up;
using conv2d_relu::kBytesPerUnit;

// Estimates, like those of model.h: what pooling a tile takes, in steps of the product (counted in instructions), and
// how much longer a step takes without tensor cores.
constexpr double kPoolSteps = 4;
constexpr double kIeeeStepCost = 4;
constexpr int kMostTiles = 8;  // columns of tiles more than must be, which may leave fewer places empty

double step_cost(const conv2d_relu::Arithmetic& arithmetic) {
    return arithmetic.element == Element::float32 && !arithmetic.tf32 ? kIeeeStepCost : 1.0;
}

int bytes_of(Element element) { return element == Element::float32 ? 4 : 2; }

// A multiply-add for each place of the product and each value of the depth.
double flops(const Problem& problem, double pixels) {
    return 2.0 * pixels * problem.K * problem.groups * problem.depth;
}

Cost cost_of(const Plan& plan, const Problem& problem, double end_bytes, int multiprocessors) {
    const conv2d_relu::TileSize tile = conv2d_relu::kTileSizes[plan.tile];
    const int P = (problem.P - 1) / 2, Q = (problem.Q - 1) / 2;  // pooled
    const int rows = tile.m / (2 * plan.windows + 1);
    const int walk = divide_up(2 * plan.segment + 1, rows);  // steps down the image
    const std::int64_t columns_of_blocks =
        static_cast<std::int64_t>(problem.N) * divide_up(Q, plan.windows) * divide_up(P, plan.segment);
    const std::int64_t blocks = columns_of_blocks * divide_up(problem.K, tile.n) * problem.groups;
    const double depth = static_cast<double>(conv2d_relu::steps_in(problem.arithmetic.element, problem.depth));
    const double steps = walk * (step_cost(problem.arithmetic) * depth + conv2d_relu::kBlockSteps + kPoolSteps);
    const double products = conv2d_relu::product_time(plan.tile, blocks, steps, multiprocessors);
    return {flops(problem, static_cast<double>(columns_of_blocks) * walk * tile.m), end_bytes,
            std::max(products, end_bytes / kBytesPerUnit)};
}

// Lengths that cut a whole into 1, 2, 3 and so on equal parts, each length once.
template <typename Visit>
void for_each_length(int whole, int least_parts, int most_parts, Visit&& visit) {
    int last = 0;
    for (int parts = least_parts; parts <= std::min(whole, most_parts); ++parts) {
        const int length = divide_up(whole, parts);
        if (length != last) visit(length);
        last = length;
    }
}

}  // namespace

Comparison compare(const Problem& problem, int multiprocessors) {
    const int P = (problem.P - 1) / 2, Q = (problem.Q - 1) / 2;
    const int element_bytes = bytes_of(problem.arithmetic.element);
    const double channels = static_cast<double>(problem.K) * problem.groups;
    const double pixels = static_cast<double>(problem.N) * problem.P * problem.Q;
    const double inputs = static_cast<double>(problem.bytes), between = pixels * channels * element_bytes;
    const double outputs = static_cast<double>(problem.N) * P * Q * channels * (element_bytes + problem.save_offsets);

    Comparison result{};
    result.fused.time = -1;
    for (int tile = kFirstTile; tile < conv2d_relu::kTiles; ++tile) {
        const int most_windows = (conv2d_relu::kTileSizes[tile].m - 1) / 2;
        const int least_tiles = divide_up(Q, most_windows);
        for_each_length(Q, least_tiles, least_tiles + kMostTiles, [&](int windows) {
            for_each_length(P, 1, P, [&](int segment) {
                const Plan plan{tile, windows, segment};
                const Cost cost = cost_of(plan, problem, inputs + outputs, multiprocessors);
                if (result.fused.time < 0 || cost.time < result.fused.time) {
                    result.plan = plan;
                    result.fused = cost;
                }
            });
        });
    }

    const Element element = problem.arithmetic.element;
    const auto rows = static_cast<std::int64_t>(pixels);
    const conv2d_relu::Choice choice =
        conv2d_relu::choose(element, rows, problem.K, problem.depth, problem.groups, multiprocessors);
    const double products =
        step_cost(problem.arithmetic) *
        conv2d_relu::time_of(choice, element, rows, problem.K, problem.depth, problem.groups, multiprocessors);
    result.separate = {flops(problem, pixels), inputs + 2 * between + outputs,
                       std::max(products, (inputs + between) / kBytesPerUnit) + conv2d_relu::kSecondPass +
                           (between + outputs) / kBytesPerUnit};
    return result;
}

}  // namespace alexkern::conv2d_relu_max_pool2d
