// mbarrier, and what the async proxy sees of shared memory.
#include "mbarrier.h"

#include <algorithm>
#include <cstring>

#include "internal.h"
#include "memory.h"

namespace emulator {
namespace {

constexpr unsigned kMostArrivals = (1u << 20) - 1;
constexpr std::int64_t kMostBytes = (1 << 20) - 1;

// What lies in memory where a barrier is: whoever writes over it is found at the barrier's next use.
std::uint64_t mark_of(std::uint32_t address) { return 0x6261727269657200u ^ std::uint64_t{address} << 32; }

MemoryBarrier& at(Slot& slot, std::uint32_t address, const char* instruction) {
    const unsigned char* bytes = shared_pointer_in(slot, address, 8, 8, instruction);
    const auto found = slot.mbarriers.find(address);
    if (found == slot.mbarriers.end() || !found->second.live) {
        const bool own = &slot == this_thread().warp->slot;
        fail(std::string(instruction) + ": no barrier was initialised at byte " +
             std::to_string(address - slot.shared_base) + " of " +
             (own ? "shared memory" : "the shared memory of " + describe_block(*slot.threads[0])));
    }
    std::uint64_t mark;
    __builtin_memcpy(&mark, bytes, sizeof mark);
    if (mark != mark_of(address)) {
        fail(std::string(instruction) + ": something wrote over the barrier at byte " +
             std::to_string(found->second.offset) + " of shared memory");
    }
    return found->second;
}

void complete_phase_if_done(Slot& slot, MemoryBarrier& mbarrier) {
    if (mbarrier.pending != 0 || mbarrier.bytes != 0) return;
    ++mbarrier.phase;
    mbarrier.pending = mbarrier.expected;
    for (Thread* thread : mbarrier.waiting) wake(*thread->warp, 1u << thread->lane);
    mbarrier.waiting.clear();
    slot.worker->idle_pauses = 0;
}

void check_bytes(const MemoryBarrier& mbarrier, const char* instruction) {
    if (mbarrier.bytes <= kMostBytes && mbarrier.bytes >= -kMostBytes) return;
    fail(std::string(instruction) + ": a phase counts up to " + std::to_string(kMostBytes) + " bytes, not " +
         std::to_string(mbarrier.bytes));
}

void arrive(Slot& slot, std::uint32_t address, unsigned bytes, const char* instruction) {
    const race::Quiet quiet;
    Thread& self = this_thread();
    MemoryBarrier& mbarrier = at(slot, address, instruction);
    if (&slot != self.warp->slot) {
        check_known_to_cluster(slot, mbarrier, instruction);
        unsigned& by = mbarrier.ordered_by[mbarrier.phase & 1];
        by = std::max(by, self.cluster_arrivals + 1);
    }
    if (mbarrier.pending == 0) {
        fail(std::string(instruction) + ": more threads arrive than the barrier at byte " +
             std::to_string(mbarrier.offset) + " counts, " + std::to_string(mbarrier.expected));
    }
    race::release(&mbarrier.edge.object[mbarrier.phase & 1]);
    release_to_async_proxy(*self.warp, &mbarrier.proxy_edge.object[mbarrier.phase & 1]);
    mbarrier.bytes += bytes;
    check_bytes(mbarrier, instruction);
    --mbarrier.pending;
    complete_phase_if_done(slot, mbarrier);
    Slot& own = *self.warp->slot;
    if (own.interleaved && own.random.below(4) == 0) yield();
}

}  // namespace

MemoryBarrier& find_mbarrier(Slot& slot, std::uint32_t address, const char* instruction) {
    return at(slot, address, instruction);
}

void complete_bytes(Slot& slot, MemoryBarrier& mbarrier, unsigned bytes) {
    mbarrier.bytes -= bytes;
    complete_phase_if_done(slot, mbarrier);
}

void release_to_async_proxy(Warp& warp, void* object) {
    if (!race::kEnabled) return;
    race::switch_to(warp.warpgroup.proxy_race_thread);
    race::release(object);
    race::switch_to(this_thread().fiber.race_thread());
}

void acquire_from_async_proxy(Warp& warp, void* object) {
    if (!race::kEnabled) return;
    race::switch_to(warp.warpgroup.proxy_race_thread);
    race::acquire(object);
    race::switch_to(this_thread().fiber.race_thread());
}

unsigned char* async_view(Slot& slot) {
    if (slot.async_view.empty()) slot.async_view.resize(slot.shared->size(), slot.poison);
    return slot.async_view.data();
}

const unsigned char* check_async_read(std::uint32_t address, unsigned bytes, unsigned alignment, const char* name) {
    Slot& slot = *this_thread().warp->slot;
    const unsigned char* memory = shared_pointer(address, bytes, alignment, name);
    const unsigned char* view = async_view(slot) + (memory - slot.shared->data());
    for (unsigned i = 0; i < bytes; ++i) {
        if (memory[i] == view[i]) continue;
        fail(std::string(name) + ": reads byte " + std::to_string(memory - slot.shared->data() + i) +
             " of shared memory, written by ordinary means with no fence.proxy.async since");
    }
    return memory;
}

void mbarrier_init(std::uint32_t address, unsigned count) {
    constexpr const char* kName = "mbarrier.init";
    Slot& slot = *this_thread().warp->slot;
    unsigned char* bytes = shared_pointer(address, 8, 8, kName);
    if (count == 0 || count > kMostArrivals) {
        fail(std::string(kName) + ": a count of 1 to " + std::to_string(kMostArrivals) + " is wanted, not " +
             std::to_string(count));
    }
    race::write(bytes, 8);
    const race::Quiet quiet;
    MemoryBarrier& mbarrier = slot.mbarriers[address];
    if (mbarrier.live) fail(std::string(kName) + ": there is a barrier at this address already");
    mbarrier.offset = address - slot.shared_base;
    mbarrier.live = true;
    mbarrier.known_to_async_proxy = false;
    mbarrier.expected = mbarrier.pending = count;
    mbarrier.phase = 0;
    mbarrier.bytes = 0;
    mbarrier.waiting.clear();
    mbarrier.owner = &this_thread();
    mbarrier.fenced = mbarrier.announced = false;
    mbarrier.known_since = 0;
    mbarrier.ordered_by[0] = mbarrier.ordered_by[1] = 0;
    const std::uint64_t mark = mark_of(address);
    __builtin_memcpy(bytes, &mark, sizeof mark);
}

void mbarrier_arrive(std::uint32_t address) { arrive(*this_thread().warp->slot, address, 0, "mbarrier.arrive"); }

void mbarrier_arrive_cluster(std::uint32_t address) {
    constexpr const char* kName = "mbarrier.arrive.shared::cluster";
    arrive(block_of(address, kName), address_in_block(address), 0, kName);
}

void mbarrier_arrive_expect_tx(std::uint32_t address, unsigned bytes) {
    arrive(*this_thread().warp->slot, address, bytes, "mbarrier.arrive.expect_tx");
}

void mbarrier_wait(std::uint32_t address, unsigned parity) {
    constexpr const char* kName = "mbarrier.try_wait";
    Thread& self = this_thread();
    MemoryBarrier& mbarrier = at(*self.warp->slot, address, kName);
    if (parity > 1) fail(std::string(kName) + ": the parity is 0 or 1, not " + std::to_string(parity));
    // The cluster's barrier orders the initialisation, and to the race detector nothing.
    const bool known = mbarrier.known_since != 0 && mbarrier.known_since <= self.cluster_waits;
    if (!known) race::read(shared_pointer(address, 8, 8, kName), 8);
    const unsigned phase = mbarrier.phase;
    self.awaits = &mbarrier;
    self.awaits_parity = parity;
    while ((mbarrier.phase & 1) == parity) {
        if (mbarrier.phase != phase) fail(std::string(kName) + ": another phase began before it saw the last one end");
        {
            const race::Quiet quiet;
            mbarrier.waiting.push_back(&self);
        }
        park({kName});
    }
    self.awaits = nullptr;
    mbarrier.ordered_by[parity] = 0;
    race::acquire(&mbarrier.edge.object[parity]);
    acquire_from_async_proxy(*self.warp, &mbarrier.proxy_edge.object[parity]);
}

void fence_mbarrier_init() {
    Thread& self = this_thread();
    Slot& slot = *self.warp->slot;
    for (auto& [address, mbarrier] : slot.mbarriers) {
        if (mbarrier.owner == &self) mbarrier.fenced = mbarrier.known_to_async_proxy = true;
    }
}

void fence_async_proxy() {
    Thread& self = this_thread();
    Slot& slot = *self.warp->slot;
    for (auto& [address, mbarrier] : slot.mbarriers) mbarrier.known_to_async_proxy = true;
    const race::Quiet quiet;
    if (slot.shared->size() > 0) __builtin_memcpy(async_view(slot), slot.shared->data(), slot.shared->size());
    if (race::kEnabled) {
        race::release(&self.warp->warpgroup.proxy_edge);
        acquire_from_async_proxy(*self.warp, &self.warp->warpgroup.proxy_edge);
    }
}

}  // namespace emulator
