// Where threads meet: the lanes of a warp, and the warps of a block at its barriers.
#include <cstring>

#include "internal.h"
#include "memory.h"
#include "sync.h"

namespace emulator {
namespace {

bool same_place(const Instruction& a, const Instruction& b) {
    return a.line == b.line && a.barrier == b.barrier && a.count == b.count &&
           (a.name == b.name || std::strcmp(a.name, b.name) == 0) &&
           (a.file == b.file || (a.file && b.file && std::strcmp(a.file, b.file) == 0));
}

// The meeting of exactly these lanes; warps whose lanes diverge may hold several at once.
Meeting& find_meeting(Warp& warp, unsigned mask) {
    Meeting* unused = nullptr;
    for (auto& slot : warp.meetings) {
        if (!slot) {
            const race::Quiet quiet;
            slot = std::make_unique<Meeting>();
        }
        if (slot->mask == mask) return *slot;
        if (unused == nullptr && slot->arrived == 0 && (slot->mask == 0 || slot != warp.meetings[0]))
            unused = slot.get();
        if (slot->mask == 0) break;
    }
    if (unused == nullptr) fail("the lanes of its warp wait in more groups at once than are modelled");
    unused->mask = mask;
    return *unused;
}

// Adds this lane to the meeting, after checking that it belongs there. True for the last to come.
bool arrive(Meeting& meeting, const Instruction& at) {
    Thread& self = this_thread();
    const unsigned bit = 1u << self.lane;
    if (!(meeting.mask & bit)) {
        fail(describe(at) + ": its own lane " + std::to_string(self.lane) + " is not in the mask");
    }
    if (const unsigned gone = meeting.mask & ~(self.warp->lanes & ~self.warp->exited)) {
        fail(describe(at) + ": waits for lanes " + describe_lanes(gone) + " of its warp, which " +
             (gone & self.warp->exited ? "have returned" : "do not exist"));
    }
    if (meeting.arrived == 0) {
        meeting.at = at;
    } else if (!same_place(meeting.at, at)) {
        fail("diverged: is at " + describe(at) + ", but lanes " + describe_lanes(meeting.arrived) +
             " of its warp wait for it at " + describe(meeting.at));
    }
    meeting.arrived |= bit;
    if (meeting.arrived != meeting.mask) return false;
    meeting.arrived = 0;
    ++meeting.phase;
    return true;
}

// Lanes that wait elsewhere for this one, with other lanes than these: they have diverged, and none can go on.
void check_no_other_wait(const Warp& warp, const Meeting& own, const Instruction& at) {
    const unsigned bit = 1u << this_thread().lane;
    for (const auto& other : warp.meetings) {
        if (!other || other->mask == 0) return;
        if (other.get() == &own || other->arrived == 0 || !(other->mask & bit)) continue;
        if ((other->arrived & own.mask) == 0) continue;
        fail("diverged: is at " + describe(at) + ", but lanes " + describe_lanes(other->arrived) +
             " of its warp wait for it at " + describe(other->at));
    }
}

void leave(Barrier& barrier, Warp& warp) {
    race::acquire(&barrier.edge.object[warp.barrier_phase & 1]);
    acquire_from_async_proxy(warp, &barrier.proxy_edge.object[warp.barrier_phase & 1]);
}

void barrier(unsigned id, unsigned count, Instruction at, bool wait) {
    Thread& self = this_thread();
    Warp& warp = *self.warp;
    Slot& slot = *warp.slot;
    if (id >= kBarriers) fail(describe(at) + ": barrier " + std::to_string(id) + ", there are 0 to 15");
    if (count == kAllThreads) {
        count = slot.block_threads;
    } else {
        at.barrier = id;
        at.count = count;
        if (count % kLanes != 0 || count > slot.block_threads) {
            fail(describe(at) + ": the count must be a multiple of 32, up to the block's " +
                 std::to_string(slot.block_threads) + " threads");
        }
    }
    Meeting& meeting = find_meeting(warp, warp.lanes);
    check_no_other_wait(warp, meeting, at);
    Barrier& barrier = slot.barriers[id];
    char* warp_edge = &meeting.edge.object[meeting.phase & 1];
    race::release(warp_edge);
    self.fenced = false;
    if (!arrive(meeting, at)) {
        park(at);
        if (wait) leave(barrier, warp);
        return;
    }
    if (barrier.arrived != 0 && barrier.count != count) {
        fail(describe(at) + ": other warps are at this barrier with the count " + std::to_string(barrier.count));
    }
    barrier.count = count;
    barrier.arrived += __builtin_popcount(warp.lanes);
    if (barrier.arrived > count) fail(describe(at) + ": more threads arrive than the barrier counts");
    race::acquire(warp_edge);
    warp.barrier_phase = barrier.phase;
    race::release(&barrier.edge.object[warp.barrier_phase & 1]);
    release_to_async_proxy(warp, &barrier.proxy_edge.object[warp.barrier_phase & 1]);
    const bool complete = barrier.arrived == count;
    if (complete) {
        barrier.arrived = 0;
        ++barrier.phase;
        for (unsigned w = 0; w < kMaxWarps; ++w) {
            if (barrier.waiting_warps >> w & 1) wake(slot.warps[w], slot.warps[w].lanes);
        }
        barrier.waiting_warps = 0;
    }
    if (!wait || complete) {
        wake(warp, warp.lanes & ~(1u << self.lane));
        if (complete && slot.interleaved) yield();
    } else {
        barrier.waiting_warps |= 1u << warp.index;
        park(at);
    }
    if (wait) leave(barrier, warp);
}

}  // namespace

Deposits& meet(const Instruction& at, unsigned mask, const void* deposit, std::size_t bytes,
               void (*combine)(Deposits&, Statistics&)) {
    Thread& self = this_thread();
    Warp& warp = *self.warp;
    if (mask == 0) fail(describe(at) + ": an empty mask");
    Meeting& meeting = find_meeting(warp, mask);
    check_no_other_wait(warp, meeting, at);
    Deposits& deposits = meeting.deposits[meeting.phase & 1];
    __builtin_memcpy(deposits.of[self.lane], deposit, bytes);
    if (!arrive(meeting, at)) {
        park(at);
        return deposits;
    }
    if (combine != nullptr) combine(deposits, warp.slot->worker->statistics);
    wake(warp, mask & ~(1u << self.lane));
    if (warp.slot->interleaved && warp.slot->random.below(8) == 0) yield();
    return deposits;
}

Deposits& meet_whole_warp(const Instruction& at, const void* deposit, std::size_t bytes,
                          void (*combine)(Deposits&, Statistics&)) {
    return meet(at, ~0u, deposit, bytes, combine);
}

void barrier_sync(unsigned id, unsigned count, Instruction at) { barrier(id, count, at, true); }

void barrier_arrive(unsigned id, unsigned count, Instruction at) {
    if (count == kAllThreads) fail(describe(at) + ": a barrier to arrive at wants a count");
    barrier(id, count, at, false);
}

void sync_warp(unsigned mask, Instruction at) {
    Warp& warp = *this_thread().warp;
    if (mask == ~0u) mask = warp.lanes;
    Meeting& meeting = find_meeting(warp, mask);
    char* edge = &meeting.edge.object[meeting.phase & 1];
    race::release(edge);
    meet(at, mask, nullptr, 0);
    race::acquire(edge);
}

std::uint64_t shuffle(Shuffle kind, unsigned mask, std::uint64_t value, int operand, int width, Instruction at) {
    if (width < 1 || width > 32 || (width & (width - 1)) != 0) {
        fail(describe(at) + ": width " + std::to_string(width) + ", a power of two up to 32 is wanted");
    }
    const int lane = static_cast<int>(this_thread().lane);
    const int first = lane & ~(width - 1), last = first + width - 1;
    int source = lane;
    switch (kind) {
        case Shuffle::index:
            source = first + (operand & (width - 1));
            break;
        case Shuffle::up:
            source = lane - operand;
            break;
        case Shuffle::down:
            source = lane + operand;
            break;
        case Shuffle::exclusive_or:
            source = lane ^ operand;
            break;
    }
    // Out of its segment, a lane keeps its own value; an xor may reach into the segments before its own.
    if (source > last || (source < first && kind != Shuffle::exclusive_or)) source = lane;
    const Deposits& deposits = meet(at, mask, &value, sizeof value);
    if (!(mask >> source & 1)) {
        fail(describe(at) + ": reads from lane " + std::to_string(source) + ", which is not in the mask");
    }
    std::memcpy(&value, deposits.of[source], sizeof value);
    return value;
}

unsigned ballot(unsigned mask, bool predicate, Instruction at) {
    const Deposits& deposits = meet(at, mask, &predicate, sizeof predicate);
    unsigned votes = 0;
    for (unsigned lane = 0; lane < kLanes; ++lane) {
        if (mask >> lane & 1 && deposits.of[lane][0]) votes |= 1u << lane;
    }
    return votes;
}

// A fence before an atomic makes it a release, one after it an acquire (PTX ISA, memory consistency model).
void fence() {
    Thread& self = this_thread();
    self.fenced = true;
    if (self.last_atomic != nullptr) race::acquire(const_cast<void*>(self.last_atomic));
}

#ifdef EMULATOR_RACES
void before_atomic(const void* address) {
    if (this_thread().fenced) race::release(const_cast<void*>(address));
}

void after_atomic(const void* address) { this_thread().last_atomic = address; }
#endif

}  // namespace emulator
