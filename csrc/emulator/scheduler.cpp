// Runs a cluster of blocks, mostly of one: their threads as fibres, until all have returned or one went wrong.
#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "internal.h"

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/common_interface_defs.h>
#endif

namespace emulator {

char start_edge, end_edge;
__thread Coordinates* current = nullptr;

namespace {

#if defined(__SANITIZE_ADDRESS__) || defined(EMULATOR_RACES)
constexpr std::size_t kDefaultStackBytes = 512 * 1024;
#else
constexpr std::size_t kDefaultStackBytes = 128 * 1024;
#endif
constexpr std::uint64_t kPatientPauses = 10'000'000;

Thread* first_runnable(Warp& warp, bool descending) {
    return warp.thread[descending ? 31 - __builtin_clz(warp.runnable) : __builtin_ctz(warp.runnable)];
}

// A block that can go on, null where none can: `own` if it stays there, or one drawn.
Slot* pick_block(Slot& own, bool stay) {
    Cluster& cluster = *own.cluster;
    if (own.runnable_warps != 0 && (cluster.size == 1 || stay)) return &own;
    Slot* found[kMostBlocksOfACluster];
    unsigned count = 0;
    for (unsigned i = 0; i < cluster.size; ++i) {
        if (cluster.slots[i].runnable_warps != 0) found[count++] = &cluster.slots[i];
    }
    if (count == 0) return nullptr;
    return found[count == 1 ? 0 : own.random.below(count)];
}

Thread* first_of_a_drawn_warp(Slot& slot) {
    unsigned warps = slot.runnable_warps;
    for (std::uint64_t skip = slot.random.below(__builtin_popcount(warps)); skip > 0; --skip) warps &= warps - 1;
    return first_runnable(slot.warps[__builtin_ctz(warps)], slot.descending);
}

// The next thread to run, null where none can: a lane of the same warp if any, in turn, else of a warp drawn at random.
Thread* pick(Thread& from) {
    Slot& slot = *from.warp->slot;
    Warp& own = *from.warp;
    if (own.runnable != 0) {
        const unsigned others =
            slot.descending ? own.runnable & ((1u << from.lane) - 1) : own.runnable & ~((2u << from.lane) - 1);
        if (others == 0) return first_runnable(own, slot.descending);
        return own.thread[slot.descending ? 31 - __builtin_clz(others) : __builtin_ctz(others)];
    }
    // A load lands, at the latest, when nobody can go on without it.
    const bool stay = slot.cluster->in_turn;
    Slot* next = pick_block(slot, stay);
    while (next == nullptr && land_a_load(*slot.cluster)) next = pick_block(slot, stay);
    return next == nullptr ? nullptr : first_of_a_drawn_warp(*next);
}

void unmark_runnable(Thread& thread) {
    Warp& warp = *thread.warp;
    warp.runnable &= ~(1u << thread.lane);
    if (warp.runnable == 0) warp.slot->runnable_warps &= ~(1u << warp.index);
}

void go_to(Thread& from, Thread& next) {
    if (&from == &next) return;
    ++from.warp->slot->worker->switches;
    current = &next;
    from.fiber.switch_to(next.fiber);
}

void back_to_host(Thread& from) {
    current = nullptr;
    from.fiber.switch_to(from.warp->slot->worker->host);
}

void leave(Thread& thread) {
    Warp& warp = *thread.warp;
    for (const auto& meeting : warp.meetings) {
        if (!meeting || meeting->arrived == 0 || !(meeting->mask >> thread.lane & 1)) continue;
        fail("returns, but lanes " + describe_lanes(meeting->arrived) + " of its warp wait for it at " +
             describe(meeting->at));
    }
    check_nothing_in_flight(thread);
    warp.exited |= 1u << thread.lane;
    race::release(&end_edge);
    race::release(&warp.slot->use_edge.object[warp.slot->use & 1]);
    unmark_runnable(thread);
    if (--warp.slot->unfinished == 0) check_warpgroups_are_level(*warp.slot);
    leave_cluster(thread);
    warp.slot->worker->idle_pauses = 0;
}

// Not inline: a fibre may be resumed by another thread of the host, whose `current` lies elsewhere.
__attribute__((noinline)) Thread& resumed_thread() { return this_thread(); }

// What a fibre does for ever: one block's thread after another. After an error it is started anew instead.
void run_threads() {
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_finish_switch_fiber(nullptr, nullptr, nullptr);
#endif
    for (;;) {
        Thread& self = resumed_thread();
        Worker& worker = *self.warp->slot->worker;
        std::string error;
        try {
            race::acquire(&start_edge);
            race::acquire(&self.warp->slot->use_edge.object[(self.warp->slot->use - 1) & 1]);
            worker.launch->call(worker.launch->kernel_and_parameters);
            leave(self);
        } catch (const std::exception& caught) {
            error = caught.what();
            if (error.empty()) error = "an exception without a text";
        }
        if (!error.empty()) abandon_block(std::move(error));
        if (Thread* next = pick(self)) {
            go_to(self, *next);
            continue;
        }
        const Cluster& cluster = *self.warp->slot->cluster;
        const auto end = cluster.slots.begin() + cluster.size;
        if (std::any_of(cluster.slots.begin(), end, [](const Slot& slot) { return slot.unfinished > 0; })) {
            abandon_block(describe_deadlock(cluster));
        }
        back_to_host(self);
    }
}

void prepare(Slot& slot, const Launch& launch, const Options& options, std::uint64_t block) {
    ++slot.use;
    slot.block_threads = slot.unfinished = launch.block.x * launch.block.y * launch.block.z;
    slot.random = {options.seed * 0x2545f4914f6cdd1du + block};
    slot.descending = slot.random.next() & 1;
    slot.interleaved = slot.random.next() & 1;
    slot.poison = options.seed % 2 == 0 ? 0xff : 0x7b;  // NaN in every float type; large and finite in each
    constexpr Delivery kInTurn[] = {Delivery::late, Delivery::early, Delivery::mixed};
    const auto delivery = [&](Delivery wanted, std::uint64_t digit) {
        return wanted == Delivery::by_seed ? kInTurn[options.seed / digit % 3] : wanted;
    };
    slot.delivery = slot.loads = delivery(options.delivery, 1);
    slot.products = delivery(options.products, 3);  // nine seeds see every pair of loads and products
    slot.stores = delivery(options.delivery, 9);
    if (!slot.shared || slot.shared->size() != launch.shared_bytes) {
        slot.shared = std::make_unique<GuardedMemory>(launch.shared_bytes, 128);
    }
    // Kernels may count on a multiple of 1024 and no more; it is not zero, so that a forgotten base is noticed.
    slot.shared_base = 1024 * (1 + Random{options.seed}.below(7));
    std::memset(slot.shared->data(), slot.poison, launch.shared_bytes);
    slot.async_view.clear();
    slot.loads_in_flight.clear();
    slot.trails.assign(kMaxWarps / 4, {});
    for (auto& [address, mbarrier] : slot.mbarriers) mbarrier.live = false;
    for (Barrier& barrier : slot.barriers) barrier.count = barrier.arrived = barrier.waiting_warps = 0;
    const uint3 block_index = {static_cast<unsigned>(block % launch.grid.x),
                               static_cast<unsigned>(block / launch.grid.x % launch.grid.y),
                               static_cast<unsigned>(block / launch.grid.x / launch.grid.y)};
    while (slot.threads.size() < slot.block_threads) {
        slot.threads.push_back(std::make_unique<Thread>(slot.worker->stack_bytes));
        slot.threads.back()->fiber.start_at(run_threads);
    }
    if (race::kEnabled) {
        if (slot.global_race_thread == nullptr) {
            slot.global_race_thread = race::create_thread();
            race::name_thread(slot.global_race_thread, "a bulk load, by the async proxy");
        }
        race::switch_to(slot.global_race_thread);
        race::acquire(&start_edge);
        race::switch_to(slot.worker->host.race_thread());
    }
    slot.runnable_warps = 0;
    for (unsigned w = 0; w * kLanes < slot.block_threads; ++w) {
        Warp& warp = slot.warps[w];
        const unsigned lanes = std::min(kLanes, slot.block_threads - w * kLanes);
        warp.slot = &slot;
        warp.index = w;
        warp.lanes = warp.runnable = lanes == kLanes ? ~0u : (1u << lanes) - 1;
        warp.exited = 0;
        for (auto& meeting : warp.meetings) {
            if (meeting) meeting->mask = meeting->arrived = 0;
        }
        prepare_warpgroup(warp);
        slot.runnable_warps |= 1u << w;
        for (unsigned lane = 0; lane < lanes; ++lane) {
            const unsigned index = w * kLanes + lane;
            Thread& thread = *slot.threads[index];
            thread.thread = {index % launch.block.x, index / launch.block.x % launch.block.y,
                             index / launch.block.x / launch.block.y};
            thread.block = block_index;
            thread.block_dim = launch.block;
            thread.grid_dim = launch.grid;
            thread.warp = &warp;
            thread.lane = lane;
            thread.index = index;
            thread.copies.clear();
            thread.open_group = 0;
            thread.stores.clear();
            thread.open_store_group = 0;
            thread.cluster_arrivals = thread.cluster_waits = 0;
            thread.at_cluster_barrier = false;
            thread.awaits = nullptr;
            thread.fenced = false;
            thread.last_atomic = nullptr;
            warp.thread[lane] = &thread;
            if (race::kEnabled) race::name_thread(thread.fiber.race_thread(), describe_thread(thread));
        }
    }
}

}  // namespace

void run_cluster(Cluster& cluster, const Launch& launch, const Options& options, std::uint64_t number) {
    Worker& worker = *cluster.slots[0].worker;
    const std::size_t stack_bytes = options.stack_bytes != 0 ? options.stack_bytes : kDefaultStackBytes;
    if (worker.stack_bytes != stack_bytes) {
        for (Cluster& other : worker.clusters) {
            for (Slot& slot : other.slots) slot.threads.clear();
        }
        worker.stack_bytes = stack_bytes;
    }
    cluster.size = launch.cluster;
    cluster.phase = cluster.awaited = 0;
    cluster.waiting.clear();
    const unsigned across = launch.grid.x / launch.cluster;
    for (unsigned rank = 0; rank < cluster.size; ++rank) {
        Slot& slot = cluster.slots[rank];
        slot.cluster = &cluster;
        slot.rank = rank;
        prepare(slot, launch, options, number / across * launch.grid.x + number % across * launch.cluster + rank);
        cluster.awaited += slot.block_threads;
    }
    Slot& first = cluster.slots[cluster.size == 1 ? 0 : cluster.slots[0].random.below(cluster.size)];
    if (cluster.size > 1) cluster.in_turn = first.random.next() & 1;
    worker.error.clear();
    worker.idle_pauses = 0;
    Thread& any = *first.threads[first.random.below(first.block_threads)];
    current = &any;
    worker.host.switch_to(any.fiber);
    for (unsigned rank = 0; rank < cluster.size && !worker.error.empty(); ++rank) {
        for (auto& thread : cluster.slots[rank].threads) {
            race::switch_to(thread->fiber.race_thread());  // what it did so far goes before whatever the host does now
            race::release(&end_edge);
            race::switch_to(worker.host.race_thread());
            thread->fiber.start_at(run_threads);
        }
    }
    if (!worker.error.empty()) throw Error(worker.error);
    for (unsigned rank = 0; rank < cluster.size; ++rank) {
        const Slot& slot = cluster.slots[rank];
        const unsigned char* damaged = slot.shared->first_damage();
        if (damaged == nullptr) continue;
        throw Error(std::string("kernel ") + launch.name + ", " + describe_block(*slot.threads[0]) +
                    ": a thread wrote outside of shared memory, at byte " +
                    std::to_string(damaged - slot.shared->data()) + " of " + std::to_string(slot.shared->size()));
    }
}

void park(const Instruction& at) {
    Thread& self = this_thread();
    self.waits_at = at;
    unmark_runnable(self);
    self.warp->slot->worker->idle_pauses = 0;
    Thread* next = pick(self);
    if (next == nullptr) abandon_block(describe_deadlock(*self.warp->slot->cluster));
    go_to(self, *next);
}

void wake(Warp& warp, unsigned lanes) {
    warp.runnable |= lanes;
    if (lanes != 0) warp.slot->runnable_warps |= 1u << warp.index;
}

void yield() {
    Thread& self = this_thread();
    Slot& slot = *self.warp->slot;
    unmark_runnable(self);
    Thread* next = slot.runnable_warps != 0 && slot.random.next() & 1 ? nullptr : pick(self);
    if (next == nullptr && slot.runnable_warps != 0) next = first_of_a_drawn_warp(*pick_block(slot, false));
    wake(*self.warp, 1u << self.lane);
    if (next != nullptr) go_to(self, *next);
}

void pause() {
    if (++this_thread().warp->slot->worker->idle_pauses > kPatientPauses) {
        fail("pauses over and over, and no thread of its block does anything else");
    }
    yield();
}

void fail(const std::string& what) {
    if (current == nullptr) throw Error(what);
    const race::Quiet quiet;
    throw Error("kernel " + std::string(this_thread().warp->slot->worker->launch->name) + ", " +
                describe_thread(*current) + ": " + what);
}

void abandon_block(std::string error) {
    Thread& self = this_thread();
    Worker& worker = *self.warp->slot->worker;
    {
        const race::Quiet quiet;
        if (error.compare(0, 7, "kernel ") != 0) {
            error = std::string("kernel ") + worker.launch->name + ", " + describe_thread(self) + ": " + error;
        }
        worker.error = std::move(error);
    }
    back_to_host(self);
    std::abort();  // nobody resumes a fibre that was abandoned
}

}  // namespace emulator
