// Which tile and how many splits: a model of the time of every candidate, and the least of it.
#include <algorithm>

#include "traits.cuh"

namespace alexkern::conv2d_relu {
namespace {

// Estimates, in units of one step of a 128 x 128 tile on one multiprocessor, about half a microsecond: what a step of
// each tile takes (smaller ones read more for each product), what it takes at least, however little there is to do, and
// what a block takes before its first and after its last step.
constexpr double kStepCost[kTiles] = {1.0, 0.55, 0.32};
constexpr double kLeastStepCost = 0.6;
constexpr double kBlockSteps = 4;
constexpr double kSecondPass = 4;        // one more launch
constexpr double kBytesPerUnit = 1.5e6;  // that the memory moves meanwhile
constexpr int kLeastSteps = 4;           // of a split
constexpr int kMostSplits = 64;
constexpr double kMostPartialBytes = 256e6;  // of memory for the splits' sums

}  // namespace

Choice choose(Element element, std::int64_t rows, int columns, std::int64_t depth, int batches, int multiprocessors) {
    const int element_bytes = element == Element::float32 ? 4 : 2;
    const std::int64_t steps = divide_up<std::int64_t>(depth, mma::kDepthBytes / element_bytes);
    const double partial_bytes = 4.0 * static_cast<double>(rows) * columns * batches;
    Choice best{0, 1};
    double least = -1;
    for (int tile = kTiles - 1; tile >= 0; --tile) {  // the smallest of equals
        const std::int64_t blocks = batches * divide_up<std::int64_t>(rows, kTileSizes[tile].m) *
                                    divide_up<std::int64_t>(columns, kTileSizes[tile].n);
        const int most = static_cast<int>(std::min<std::int64_t>(kMostSplits, steps / kLeastSteps));
        for (int splits = 1; splits <= std::max(most, 1); ++splits) {
            if (splits > 1 && splits * partial_bytes > kMostPartialBytes) break;
            const double rounds = static_cast<double>(divide_up<std::int64_t>(blocks * splits, multiprocessors));
            double cost = std::max(rounds * kStepCost[tile], kLeastStepCost) *
                          (static_cast<double>(divide_up<std::int64_t>(steps, splits)) + kBlockSteps);
            if (splits > 1) cost += kSecondPass + 2 * splits * partial_bytes / kBytesPerUnit;
            if (least < 0 || cost < least) {
                least = cost;
                best = {tile, splits};
            }
        }
    }
    return best;
}

}  // namespace alexkern::conv2d_relu
