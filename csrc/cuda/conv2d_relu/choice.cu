// Which tile and how many splits: the model's time of every candidate, and the least of it.
#include <algorithm>

#include "model.h"
#include "traits.cuh"

namespace alexkern::conv2d_relu {
namespace {

constexpr int kLeastSteps = 4;  // of a split
constexpr int kMostSplits = 64;
constexpr double kMostPartialBytes = 256e6;  // of memory for the splits' sums

double partial_bytes(std::int64_t rows, int columns, int batches) {
    return 4.0 * static_cast<double>(rows) * columns * batches;
}

}  // namespace

std::int64_t steps_in(Element element, std::int64_t depth) {
    const int element_bytes = element == Element::float32 ? 4 : 2;
    return divide_up<std::int64_t>(depth, mma::kDepthBytes / element_bytes);
}

double product_time(int tile, std::int64_t blocks, double steps, int multiprocessors) {
    const double rounds = static_cast<double>(divide_up<std::int64_t>(blocks, multiprocessors));
    return std::max(rounds * kStepCost[tile], kLeastStepCost) * steps;
}

double time_of(const Choice& choice, Element element, std::int64_t rows, int columns, std::int64_t depth, int batches,
               int multiprocessors) {
    const TileSize tile = kTileSizes[choice.tile];
    const std::int64_t blocks =
        batches * divide_up<std::int64_t>(rows, tile.m) * divide_up<std::int64_t>(columns, tile.n);
    const auto steps = static_cast<double>(divide_up<std::int64_t>(steps_in(element, depth), choice.splits));
    const double time = product_time(choice.tile, blocks * choice.splits, steps + kBlockSteps, multiprocessors);
    if (choice.splits == 1) return time;
    return time + kSecondPass + 2 * choice.splits * partial_bytes(rows, columns, batches) / kBytesPerUnit;
}

Choice choose(Element element, std::int64_t rows, int columns, std::int64_t depth, int batches, int multiprocessors) {
    const int most = static_cast<int>(std::min<std::int64_t>(kMostSplits, steps_in(element, depth) / kLeastSteps));
    Choice best{0, 1};
    double least = -1;
    for (int tile = kTiles - 1; tile >= 0; --tile) {  // the smallest of equals
        for (int splits = 1; splits <= std::max(most, 1); ++splits) {
            if (splits > 1 && splits * partial_bytes(rows, columns, batches) > kMostPartialBytes) break;
            const Choice candidate{tile, splits};
            const double time = time_of(candidate, element, rows, columns, depth, batches, multiprocessors);
            if (least < 0 || time < least) {
                least = time;
                best = candidate;
            }
        }
    }
    return best;
}

Times first_layer_times(Element element, const FirstLayer& layer, int multiprocessors) {
    constexpr int kFactor = 4, kPaddedC = 4;
    const std::int64_t pixels = layer.N * layer.P * layer.Q;
    const int rows = divide_up(layer.R, kFactor), columns = divide_up(layer.S, kFactor);  // of the filter in depth
    const auto product = [&](int depth) {
        const std::int64_t down = layer.gradient ? layer.K : pixels, along = layer.gradient ? pixels : depth;
        const int across = layer.gradient ? depth : layer.K;
        const Choice choice = choose(element, down, across, along, 1, multiprocessors);
        return time_of(choice, element, down, across, along, 1, multiprocessors);
    };
    const double bytes = element == Element::float32 ? 4 : 2, images = static_cast<double>(layer.N) * layer.H * layer.W;
    const double padded = images * (layer.C + kPaddedC);
    const double deep = images * layer.C + static_cast<double>(layer.N) * (layer.P + rows - 1) *
                                               (layer.Q + columns - 1) * kFactor * kFactor * layer.C;
    // In depth, outputs are amended behind the product; a gradient's filters are brought back, in two passes.
    const int passes = layer.gradient ? 3 : 2;
    return {
        product(layer.R * layer.S * kPaddedC) + (layer.in_place ? 0.0 : kSecondPass + padded * bytes / kBytesPerUnit),
        product(rows * columns * kFactor * kFactor * layer.C) + passes * kSecondPass + deep * bytes / kBytesPerUnit};
}

}  // namespace alexkern::conv2d_relu
