// Which tile, and in how many splits: a model of the time, minimised over what there is.
#include <algorithm>
#include <cmath>

#include "hopper.h"

namespace alexkern::hopper {
namespace {

// Per clock and SM, of the data sheet's rates: products of 16-bit values, bytes of shared memory, bytes from the
// second-level cache. Then bytes of device memory per clock for the whole chip, and clocks that no tile overlaps.
constexpr double kProducts = 2048, kSharedBytes = 128, kCacheBytes = 44, kMemoryBytes = 2400;
constexpr double kStartCycles = 1500, kLaunchCycles = 4000;
constexpr int kMostSplits = 64;
constexpr double kWorthACluster = 0.95;  // of the time without: blocks that wait for each other are not in the model

std::int64_t divide_up(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

}  // namespace

int depth_of(int channels) {
    return divide_up(channels, kSmallDepth) * kSmallDepth < divide_up(channels, kDepth) * kDepth ? kSmallDepth : kDepth;
}

Work linear_work(std::int64_t rows, int columns, int channels) {
    const int depth = depth_of(channels);
    return {rows, columns, divide_up(channels, depth), 1, depth, false, (rows + columns) * channels * 2};
}

double modelled_cycles(const Work& work, const Choice& choice, int multiprocessors) {
    // A block has the values of both tiles, and fetches its part of those that its cluster shares.
    const double n = choice.block_n, values = (kBlockM + n) * work.depth;
    const double multiplied = kBlockM * n * work.depth / kProducts;
    // Each of the two warpgroups reads its own rows and all columns; TMA writes both once.
    const double shared = (values + kBlockM * work.depth + 2 * n * work.depth) * 2 / kSharedBytes;
    const double fetched = (kBlockM + n / choice.cluster) * work.depth * 2 / kCacheBytes;
    const double step = std::max({multiplied, shared, fetched});
    const double stored = kBlockM * n * (choice.splits > 1 || work.sums ? 4 : 2) / kCacheBytes;
    // A cluster takes as many tiles at once as it has blocks, one below the other.
    const std::int64_t tiles =
        divide_up(work.rows, kBlockM * choice.cluster) * divide_up(work.columns, choice.block_n) * work.batches;
    const int clusters = std::max(1, multiprocessors / choice.cluster);
    const double waves = static_cast<double>(divide_up(tiles * choice.splits, clusters));
    const double steps = static_cast<double>(divide_up(work.steps, choice.splits));
    double cycles =
        kStartCycles + std::max(waves * (steps * step + stored), static_cast<double>(work.bytes) / kMemoryBytes);
    if (choice.splits > 1) {  // the sums go out and come back to be added up
        const double sums = static_cast<double>(work.rows) * work.columns * work.batches * choice.splits;
        cycles += kLaunchCycles + sums * 4 / kMemoryBytes;
    }
    return cycles;
}

Choice choose(const Work& work, int multiprocessors, bool weight_gradient) {
    Choice best = {0, 0, 0};
    double least = INFINITY;
    const auto consider = [&](int block_n, int cluster) {
        const std::int64_t most = std::min<std::int64_t>(kMostSplits, std::max<std::int64_t>(work.steps / 4, 1));
        for (int splits = 1; splits <= most; ++splits) {
            const Choice choice = {block_n, splits, cluster};
            const double cycles = modelled_cycles(work, choice, multiprocessors);
            if (cycles >= least) continue;
            least = cycles;
            best = choice;
        }
    };
    if (weight_gradient) {
        for (const int block_n : kWeightBlockN) consider(block_n, 1);
        return best;
    }
    for (const int cluster : {1, 2}) {
        if (cluster > 1) least *= kWorthACluster;
        for (const int block_n : kBlockN) {
            if (work.depth == kDepth || block_n <= 128) consider(block_n, cluster);
        }
    }
    return best;
}

}  // namespace alexkern::hopper
