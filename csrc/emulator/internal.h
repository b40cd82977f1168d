// The emulator's own state. A worker (a thread of the host) runs one cluster of blocks at a time, mostly of one block,
// each in a slot; a slot holds the block's warps, barriers and shared memory; a warp holds its lanes and the places
// where they meet.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "fiber.h"
#include "launch.h"
#include "race.h"
#include "thread.h"
#include "warpgroup.h"

namespace emulator {

constexpr unsigned kLanes = 32, kMaxWarps = 32, kBarriers = 16, kDepositBytes = 48;
constexpr unsigned kMostBlocksOfACluster = 8;

struct Cluster;
struct Slot;
struct Warp;
struct Worker;

// splitmix64
struct Random {
    std::uint64_t state;
    std::uint64_t next() {
        std::uint64_t z = state += 0x9e3779b97f4a7c15u;
        z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
        z = (z ^ z >> 27) * 0x94d049bb133111ebu;
        return z ^ z >> 31;
    }
    std::uint64_t below(std::uint64_t bound) { return next() % bound; }
};

// An edge of happens-before between threads that meet again and again. Two objects, used in turn: a thread that has
// run ahead to the next meeting must not lend its later accesses to one that has yet to leave this one.
struct Edge {
    char object[2];
};

// What each lane brings to a meeting of a warp's lanes, and may take from the others afterwards.
struct alignas(16) Deposits {
    unsigned char of[kLanes][kDepositBytes];
};

struct Meeting {
    unsigned mask = 0, arrived = 0, phase = 0;
    Instruction at{nullptr};
    Deposits deposits[2];  // in turn, as an Edge's objects
    Edge edge;
};

struct AsyncCopy {
    unsigned char* destination;
    const unsigned char* source;
    unsigned bytes, source_bytes;
    std::uint64_t group;
};

// An mbarrier: it completes its phase when nothing is pending, arrivals and bytes.
struct MemoryBarrier {
    std::uint32_t offset = 0;  // in shared memory
    bool live = false, known_to_async_proxy = false;
    unsigned expected = 0, pending = 0, phase = 0;
    std::int64_t bytes = 0;
    std::vector<struct Thread*> waiting;
    Edge edge, proxy_edge;
    // In a cluster: who initialised it; whether that one has fenced it, and then come to the cluster's barrier; since
    // which of the cluster's barriers all know it, 0 where they do not; and, by parity of the phase, of which of the
    // cluster's barriers on other blocks' arrivals are ordered, 0 where there were none or a wait has seen them.
    const struct Thread* owner = nullptr;
    bool fenced = false, announced = false;
    unsigned known_since = 0;
    unsigned ordered_by[2] = {0, 0};
};

// Up to 16 bytes of a bulk copy; global null: zeros.
struct BulkPiece {
    std::uint32_t shared;
    unsigned bytes;
    unsigned char* global;
};

struct BulkLoad {
    std::vector<BulkPiece> pieces;
    std::uint32_t mbarrier;
    unsigned bytes;
};

struct BulkStore {
    std::vector<BulkPiece> pieces;
    std::uint64_t group;
    std::vector<unsigned char> bytes;  // of all pieces, once they are read and as long as they are not written
};

struct Thread : Coordinates {
    explicit Thread(std::size_t stack_bytes) : fiber(stack_bytes) {}

    Fiber fiber;
    Warp* warp = nullptr;
    unsigned lane = 0, index = 0;       // in the warp, in the block
    Instruction waits_at{nullptr};      // while it cannot run
    std::vector<AsyncCopy> copies;      // issued and not yet landed
    std::uint64_t open_group = 0;       // the cp.async group that commit will close
    void* async_race_thread = nullptr;  // who performs its copies, to the race detector
    char issue_edge, group_edges[16];
    std::vector<BulkStore> stores;  // issued, and not known to have been read
    std::uint64_t open_store_group = 0;
    void *load_race_thread = nullptr, *store_race_thread = nullptr, *write_race_thread = nullptr;
    char bulk_edge, store_edges[16];
    unsigned cluster_arrivals = 0, cluster_waits = 0;  // at the cluster's barrier
    bool at_cluster_barrier = false;
    const MemoryBarrier* awaits = nullptr;
    unsigned awaits_parity = 0;
    bool fenced = false;                        // since its last barrier
    std::vector<unsigned char> stack_at_fence;  // of wgmma, from its end down
    const void* last_atomic = nullptr;
};

// Registers that wgmma accumulates in, as it sees them while products are in flight.
struct Accumulators {
    float* of[kLanes] = {};
    unsigned count = 0, in_flight = 0;  // registers of a lane; products
    std::uint64_t fence = 0;            // the newest at which `values`, or poison, was known to be in them
    std::vector<float> values;          // [lane][count]
};

struct Product {
    WarpgroupOperands operands;
    Element element;
    unsigned n;
    bool accumulate;
    Accumulators* accumulators;
    std::uint64_t group;
};

// A warp's part in its warpgroup.
struct WarpgroupPart {
    std::vector<Product> products;  // issued and not yet made
    std::vector<std::unique_ptr<Accumulators>> accumulators;
    std::uint64_t open_group = 0, issued = 0, issued_in_all = 0, fences = 0;
    std::vector<std::uint64_t> issued_by;  // the end of each group: products in all
    std::uint64_t awaited = 0;             // of the others' products, while a wait lasts
    unsigned waits = 0;                    // the lane that waits so, as a set
    bool fenced = false;
    unsigned registers = 0;             // of a thread, once set
    void* race_thread = nullptr;        // who multiplies
    void* proxy_race_thread = nullptr;  // knows what the async proxy may see; see race.h
    char issue_edge, proxy_edge, group_edges[16];
};

struct Warp {
    Slot* slot = nullptr;
    unsigned index = 0;
    unsigned lanes = 0, runnable = 0, exited = 0;       // sets of lanes
    unsigned barrier_phase = 0;                         // of the barrier that it came to last
    std::array<std::unique_ptr<Meeting>, 16> meetings;  // by mask, the first for all lanes
    WarpgroupPart warpgroup;
    unsigned waits_for_registers = 0;  // a set of lanes
    Thread* thread[kLanes];
};

struct Barrier {
    unsigned count = 0, arrived = 0, phase = 0;
    unsigned waiting_warps = 0;  // a set
    Edge edge, proxy_edge;
};

struct Slot {
    Worker* worker = nullptr;
    Cluster* cluster = nullptr;
    unsigned rank = 0;  // in the cluster
    unsigned block_threads = 0, unfinished = 0;
    unsigned runnable_warps = 0;  // a set
    Random random{0};
    bool descending = false, interleaved = false;  // the order of lanes and warps
    Delivery delivery = Delivery::late, loads = Delivery::late, stores = Delivery::late, products = Delivery::late;
    unsigned char poison = 0xff;
    std::array<Warp, kMaxWarps> warps;
    std::array<Barrier, kBarriers> barriers;
    std::vector<std::unique_ptr<Thread>> threads;
    std::unique_ptr<GuardedMemory> shared;
    std::uint32_t shared_base = 0;          // of its addresses; the same in all blocks of a cluster
    std::vector<unsigned char> async_view;  // shared memory as the async proxy sees it; empty until it is used
    std::map<std::uint32_t, MemoryBarrier> mbarriers;
    std::vector<BulkLoad> loads_in_flight;
    std::vector<std::vector<WarpgroupOperands>> trails;  // what each warpgroup has multiplied since all were level
    unsigned use = 0;                                    // counts the blocks that it held
    Edge use_edge;                                       // from one of them to the next
    void* global_race_thread = nullptr;  // the async proxy, which knows of global memory what was there at the start
};

struct Cluster {
    std::array<Slot, kMostBlocksOfACluster> slots;
    unsigned size = 1;                // blocks
    bool in_turn = false;             // a block runs as far as it can before another
    unsigned phase = 0, awaited = 0;  // of the cluster's barrier: threads that have not arrived
    std::vector<Thread*> waiting;
};

struct Worker {
    Fiber host;
    const Launch* launch = nullptr;
    std::array<Cluster, race::kSlots> clusters;
    std::string error;
    Statistics statistics;
    std::vector<BulkStore> unwritten;  // read, and written at the latest when the launch ends
    std::uint64_t switches = 0;        // of fibres: whether anything moves
    std::uint64_t idle_pauses = 0;     // since anything but a pause happened
    std::size_t stack_bytes = 0;
};

inline Thread& this_thread() { return *static_cast<Thread*>(current); }

// scheduler.cpp
extern char start_edge, end_edge;  // between the host's work and the kernel's, to the race detector
void run_cluster(Cluster& cluster, const Launch& launch, const Options& options, std::uint64_t number);  // throws Error
void park(const Instruction& at);                                                                        // until woken
void wake(Warp& warp, unsigned lanes);  // makes parked lanes runnable
void yield();                           // to another runnable thread, if there is one
[[noreturn]] void abandon_block(std::string error);

// Whether what is issued now takes effect at once.
inline bool at_once(Slot& slot, Delivery delivery) {
    return delivery == Delivery::early || (delivery == Delivery::mixed && (slot.random.next() & 1));
}

// mbarrier.cpp
MemoryBarrier& find_mbarrier(Slot& slot, std::uint32_t address, const char* instruction);
void complete_bytes(Slot& slot, MemoryBarrier& mbarrier, unsigned bytes);
// To the race detector each warp has a shadow that knows only of accesses that the async proxy may rely on: a fence
// teaches it what the thread knows, and it meets others where the thread does.
void release_to_async_proxy(Warp& warp, void* object);
void acquire_from_async_proxy(Warp& warp, void* object);
// The async proxy's view of shared memory. `check_async_read` fails where an ordinary write was not fenced.
unsigned char* async_view(Slot& slot);
const unsigned char* check_async_read(std::uint32_t address, unsigned bytes, unsigned alignment, const char* name);

// cluster.cpp
// The block that an address of shared::cluster is of, and where in it: its own for an address that mapa did not make.
Slot& block_of(std::uint32_t address, const char* instruction);
std::uint32_t address_in_block(std::uint32_t address);
Slot& block_of_rank(unsigned rank, const char* instruction);  // fails where it has returned
void check_known_to_cluster(const Slot& slot, const MemoryBarrier& mbarrier, const char* instruction);
void check_arrivals_are_ordered(const Slot& slot);  // by the last thread of its block
void leave_cluster(Thread& thread);

// memory.cpp: `shared_pointer` in another block.
unsigned char* shared_pointer_in(Slot& slot, std::uint32_t address, unsigned bytes, unsigned alignment,
                                 const char* instruction);

// bulk.cpp, warpgroup.cpp
bool land_a_load(Cluster& cluster);  // one of those in flight, drawn; false where there is none
void write_what_was_stored(Worker& worker);
void check_nothing_in_flight(Thread& thread);
void prepare_warpgroup(Warp& warp);
void check_warpgroups_are_level(const Slot& slot);

// describe.cpp
std::string describe(const Instruction& at);
std::string describe(const uint3& at);
std::string describe_lanes(unsigned lanes);
std::string describe_block(const Coordinates& at);
std::string describe_thread(const Coordinates& at);
std::string describe_address(const void* address);
std::string describe(const MemoryBarrier& mbarrier, unsigned parity);
std::string describe_deadlock(const Cluster& cluster);

// warp.cpp: the lanes of `mask` meet; the last to come runs `combine` for all. Returns what they brought or made.
Deposits& meet(const Instruction& at, unsigned mask, const void* deposit, std::size_t bytes,
               void (*combine)(Deposits&, Statistics&) = nullptr);
Deposits& meet_whole_warp(const Instruction& at, const void* deposit, std::size_t bytes,
                          void (*combine)(Deposits&, Statistics&));

// faults.cpp
class FaultHandling {  // while it lives, a fault in a kernel's thread ends the launch with an error
  public:
    explicit FaultHandling(double patience);
    ~FaultHandling();

  private:
    void* timer_ = nullptr;
    bool has_timer_ = false;
    void* own_alternate_stack_ = nullptr;
};

}  // namespace emulator
