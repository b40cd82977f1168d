// Work on torch's threads: of the OpenMP pool that it uses itself, as many as it says, none that spin in a kernel.
#pragma once

#include <cstdint>

#if defined(_OPENMP)
#include <omp.h>
#endif

namespace alexkern::ALEXKERN_ISA {

constexpr std::int64_t GRAIN = 16384;  // numbers: of less a thread would take longer to wake than to work

// run(begin, end) for pieces of 0 to count - 1, a unit of which is `numbers` to compute. Units are independent of one
// another, so that bits do not depend on who takes which. A thread takes those of a range of its own first, which it
// had in the operator before as well and finds in its cache, and then what others have not come to: one that is held up
// takes fewer. Of long units that have nothing in common with their neighbours more pieces a thread leave less to wait
// for.
template <int PIECES = 8, typename Run>
inline void parallel(int threads, std::int64_t count, std::int64_t numbers, const Run& run) {
    const std::int64_t useful = count * numbers / GRAIN;
    if (useful < threads) threads = useful < 1 ? 1 : static_cast<int>(useful);
    if (threads == 1 || count <= 1) {
        if (count > 0) run(std::int64_t(0), count);
        return;
    }
    const std::int64_t wanted = std::int64_t(PIECES) * threads, pieces = count < wanted ? count : wanted;
    char* const taken = static_cast<char*>(__builtin_alloca(pieces));
    __builtin_memset(taken, 0, pieces);
#pragma omp parallel num_threads(threads)
    {
#if defined(_OPENMP)
        const std::int64_t first = pieces * omp_get_thread_num() / omp_get_num_threads();
#else
        const std::int64_t first = 0;
#endif
        for (std::int64_t i = 0; i < pieces; ++i) {
            const std::int64_t piece = (first + i) % pieces;
            if (__atomic_exchange_n(taken + piece, 1, __ATOMIC_RELAXED)) continue;
            run(count * piece / pieces, count * (piece + 1) / pieces);
        }
    }
}

}  // namespace alexkern::ALEXKERN_ISA
