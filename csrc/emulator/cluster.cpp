// What the blocks of a cluster have in common: addresses of each other's shared memory, and a barrier.
#include "cluster.h"

#include "internal.h"
#include "memory.h"

namespace emulator {
namespace {

// An address that mapa made has the block's rank, from 1, above its offset; a block's own addresses have 0 there.
constexpr unsigned kRankShift = 24;

void complete(Cluster& cluster) {
    const race::Quiet quiet;
    ++cluster.phase;
    cluster.awaited = 0;
    for (unsigned i = 0; i < cluster.size; ++i) {
        cluster.awaited += cluster.slots[i].unfinished;
        for (auto& [address, mbarrier] : cluster.slots[i].mbarriers) {
            if (mbarrier.announced && mbarrier.known_since == 0) mbarrier.known_since = cluster.phase;
            for (unsigned& by : mbarrier.ordered_by) by = by <= cluster.phase ? 0 : by;
        }
    }
    for (Thread* thread : cluster.waiting) wake(*thread->warp, 1u << thread->lane);
    cluster.waiting.clear();
}

// The lanes of the warp execute it together.
void meet_lanes(const Instruction& at) { meet(at, this_thread().warp->lanes, nullptr, 0); }

}  // namespace

unsigned cluster_rank() { return this_thread().warp->slot->rank; }

std::uint32_t map_shared(std::uint32_t address, unsigned rank) {
    shared_pointer(address, 0, 1, "mapa");
    const Cluster& cluster = *this_thread().warp->slot->cluster;
    if (rank >= cluster.size) {
        fail("mapa: block " + std::to_string(rank) + " of its cluster, which has " + std::to_string(cluster.size));
    }
    return address | (rank + 1) << kRankShift;
}

std::uint32_t address_in_block(std::uint32_t address) { return address & ((1u << kRankShift) - 1); }

Slot& block_of_rank(unsigned rank, const char* instruction) {
    Slot& own = *this_thread().warp->slot;
    if (rank >= own.cluster->size) {
        fail(std::string(instruction) + ": to block " + std::to_string(rank) + " of its cluster, which has " +
             std::to_string(own.cluster->size));
    }
    Slot& slot = own.cluster->slots[rank];
    if (slot.unfinished == 0) {
        fail(std::string(instruction) + ": " + describe_block(*slot.threads[0]) +
             " of its cluster has returned, and its shared memory with it");
    }
    return slot;
}

Slot& block_of(std::uint32_t address, const char* instruction) {
    const unsigned rank = address >> kRankShift;
    return rank == 0 ? *this_thread().warp->slot : block_of_rank(rank - 1, instruction);
}

void check_known_to_cluster(const Slot& slot, const MemoryBarrier& mbarrier, const char* instruction) {
    if (mbarrier.known_since != 0) return;
    fail(std::string(instruction) + ": the barrier at byte " + std::to_string(mbarrier.offset) + " of " +
         describe_block(*slot.threads[0]) +
         " is not known to the cluster: fence.mbarrier_init, then the cluster's barrier, have to follow its "
         "initialisation");
}

void check_arrivals_are_ordered(const Slot& slot) {
    for (const auto& [address, mbarrier] : slot.mbarriers) {
        if (!mbarrier.live || (mbarrier.ordered_by[0] == 0 && mbarrier.ordered_by[1] == 0)) continue;
        fail(
            "returns, the last of its block, and nothing says that it does so after another block's arrival at its "
            "barrier at byte " +
            std::to_string(mbarrier.offset) + ": wait for that phase, or for the cluster");
    }
}

void cluster_arrive_relaxed(Instruction at) {
    Thread& self = this_thread();
    Slot& slot = *self.warp->slot;
    meet_lanes(at);
    if (self.at_cluster_barrier) fail(describe(at) + ": arrives again, with no barrier.cluster.wait since");
    self.at_cluster_barrier = true;
    ++self.cluster_arrivals;
    for (auto& [address, mbarrier] : slot.mbarriers) {
        mbarrier.announced |= mbarrier.live && mbarrier.fenced && mbarrier.owner == &self;
    }
    if (--slot.cluster->awaited == 0) complete(*slot.cluster);
    if (slot.interleaved && slot.random.below(4) == 0) yield();
}

void cluster_wait(Instruction at) {
    Thread& self = this_thread();
    Cluster& cluster = *self.warp->slot->cluster;
    meet_lanes(at);
    if (!self.at_cluster_barrier) fail(describe(at) + ": waits with no barrier.cluster.arrive before it");
    while (cluster.phase < self.cluster_arrivals) {
        {
            const race::Quiet quiet;
            cluster.waiting.push_back(&self);
        }
        park(at);
    }
    self.at_cluster_barrier = false;
    self.cluster_waits = self.cluster_arrivals;
}

void leave_cluster(Thread& thread) {
    Cluster& cluster = *thread.warp->slot->cluster;
    if (cluster.phase >= thread.cluster_arrivals && --cluster.awaited == 0) complete(cluster);
}

}  // namespace emulator
