// Work on torch's threads: of the OpenMP pool that it uses itself, as many as it says, none that spin in a kernel.
#pragma once

#include <cstdint>

namespace alexkern::ALEXKERN_ISA {

constexpr std::int64_t GRAIN = 16384;  // numbers: of less a thread would take longer to wake than to work

// run(begin, end) for pieces of 0 to count - 1, a unit of which is `numbers` to compute. Units are independent of one
// another, so that bits do not depend on who takes which: a thread that is held up takes fewer. Of long units that have
// nothing in common with their neighbours more pieces a thread leave less to wait for at the end.
template <int PIECES = 8, typename Run>
inline void parallel(int threads, std::int64_t count, std::int64_t numbers, const Run& run) {
    const std::int64_t useful = count * numbers / GRAIN;
    if (useful < threads) threads = useful < 1 ? 1 : static_cast<int>(useful);
    if (threads == 1 || count <= 1) {
        if (count > 0) run(std::int64_t(0), count);
        return;
    }
    const std::int64_t wanted = std::int64_t(PIECES) * threads, pieces = count < wanted ? count : wanted;
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1)
    for (std::int64_t piece = 0; piece < pieces; ++piece) {
        run(count * piece / pieces, count * (piece + 1) / pieces);
    }
}

}  // namespace alexkern::ALEXKERN_ISA
