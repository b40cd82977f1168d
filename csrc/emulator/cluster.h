// Clusters: blocks that run together and reach one another's shared memory.
#pragma once

#include <cstdint>

#include "thread.h"

namespace emulator {

unsigned cluster_rank();  // %cluster_ctarank

// mapa: what `address`, of this block's shared memory, is in the block of that rank.
std::uint32_t map_shared(std::uint32_t address, unsigned rank);

// barrier.cluster.arrive.relaxed.aligned and barrier.cluster.wait.acquire.aligned: of all threads of all blocks that
// have not returned. It orders the initialisations of barriers that were fenced before it, and no other access.
void cluster_arrive_relaxed(Instruction at);
void cluster_wait(Instruction at);

}  // namespace emulator
