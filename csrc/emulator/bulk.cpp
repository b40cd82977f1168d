// TMA: what a tensor map may say, which bytes a copy moves, and when they land.
//
// The box, the traversal of im2col and the swizzles: PTX ISA, "Tensors"; CUDA driver API, cuTensorMapEncodeTiled and
// cuTensorMapEncodeIm2col.
#include "bulk.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>

#include "internal.h"
#include "memory.h"

namespace emulator {
namespace {

constexpr unsigned kPieceBytes = 16;
constexpr unsigned kSwizzleBytes[] = {0, 32, 64, 128};  // of a row

void reject(const char* what) { throw std::invalid_argument(std::string("tensor map: ") + what); }

void check_common(const TensorMap& map, unsigned inner_bytes) {
    if (reinterpret_cast<std::uintptr_t>(map.data) % 16 != 0) reject("the address is not a multiple of 16");
    for (unsigned i = 0; i < map.rank; ++i) {
        if (map.sizes[i] == 0 || map.sizes[i] > 1ull << 32) reject("a size of 1 to 2**32 is wanted");
        if (i > 0 && (map.strides[i] % 16 != 0 || map.strides[i] >= 1ull << 40)) {
            reject("strides are multiples of 16 bytes, below 2**40");
        }
    }
    if (inner_bytes % 16 != 0) reject("the innermost part of a box is a multiple of 16 bytes");
    const unsigned width = kSwizzleBytes[static_cast<int>(map.swizzle)];
    // Of a narrower one it is not documented how far apart its rows lie, and which bytes complete_tx counts.
    if (width != 0 && inner_bytes != width) reject("the innermost part of a box is not as wide as the swizzle");
}

TensorMap begin(void* data, unsigned element_bytes, unsigned rank, const std::uint64_t* sizes,
                const std::uint64_t* strides, Swizzle swizzle) {
    if (rank == 0 || rank > kMostDimensions) reject("1 to 5 dimensions are wanted");
    TensorMap map = {};
    map.data = static_cast<unsigned char*>(data);
    map.rank = rank;
    map.element_bytes = element_bytes;
    map.swizzle = swizzle;
    std::copy(sizes, sizes + rank, map.sizes);
    map.strides[0] = element_bytes;
    std::copy(strides, strides + rank - 1, map.strides + 1);
    return map;
}

// How rows lie in shared memory: side by side, their 16-byte pieces permuted within 128, 64 or 32 bytes.
struct Rows {
    std::uint32_t first;
    unsigned bytes, swizzle;

    Rows(const TensorMap& map, std::uint32_t first, unsigned bytes) : first(first), bytes(bytes) {
        swizzle = map.swizzle == Swizzle::none ? 0 : bytes / 16 - 1;
    }

    std::uint32_t at(std::uint64_t row, unsigned byte) const {
        const auto address = static_cast<std::uint32_t>(first + row * bytes + byte);
        return address ^ (address >> 7 & swizzle) << 4;
    }
};

// One row of a box: elements [coordinate, coordinate + count) of the innermost dimension, as far as they exist, where
// `row` (null: nowhere) is element 0. A store has no use for what does not exist, a load has zeros.
void add_row(std::vector<BulkPiece>& pieces, const TensorMap& map, const Rows& rows, std::uint64_t index,
             unsigned char* row, std::int64_t coordinate, unsigned count, bool store) {
    const unsigned per_piece = kPieceBytes / map.element_bytes, size = map.element_bytes;
    const auto exists = [&](std::int64_t i) { return row != nullptr && i >= 0 && i < std::int64_t(map.sizes[0]); };
    for (unsigned i = 0; i < count; i += per_piece) {
        const std::int64_t first = coordinate + i, last = first + per_piece - 1;
        const std::uint32_t shared = rows.at(index, i * size);
        if (exists(first) && exists(last)) {
            pieces.push_back({shared, kPieceBytes, row + first * size});
            continue;
        }
        for (unsigned j = 0; j < per_piece; ++j) {
            if (exists(first + j)) {
                pieces.push_back({shared + j * size, size, row + (first + j) * size});
            } else if (!store) {
                pieces.push_back({shared + j * size, size, nullptr});
            }
        }
    }
}

std::vector<BulkPiece> box_pieces(const TensorMap& map, std::uint32_t shared, const int* coordinates, bool store) {
    std::vector<BulkPiece> pieces;
    const Rows rows(map, shared, map.box[0] * map.element_bytes);
    unsigned index[kMostDimensions] = {};
    for (std::uint64_t row = 0;; ++row) {
        unsigned char* start = map.data;
        for (unsigned i = 1; i < map.rank; ++i) {
            const std::int64_t at = std::int64_t{coordinates[i]} + index[i];
            if (at < 0 || at >= std::int64_t(map.sizes[i])) start = nullptr;
            if (start != nullptr) start += at * map.strides[i];
        }
        add_row(pieces, map, rows, row, start, coordinates[0], map.box[0], store);
        unsigned i = 1;
        while (i < map.rank && ++index[i] == map.box[i]) index[i++] = 0;
        if (i >= map.rank) return pieces;
    }
}

void copy_piece(unsigned char* into, const unsigned char* from, unsigned bytes) {
    if (bytes == kPieceBytes) {
        __builtin_memcpy(into, from, kPieceBytes);
    } else {
        for (unsigned i = 0; i < bytes; ++i) static_cast<volatile unsigned char*>(into)[i] = from[i];
    }
}

void fill(Slot& slot, const BulkPiece& piece, unsigned char value) {
    const std::uint32_t offset = piece.shared - slot.shared_base;
    unsigned char *memory = slot.shared->data() + offset, *view = async_view(slot) + offset;
    for (unsigned i = 0; i < piece.bytes; ++i) static_cast<volatile unsigned char*>(memory)[i] = value;
    for (unsigned i = 0; i < piece.bytes; ++i) static_cast<volatile unsigned char*>(view)[i] = value;
}

void land(Slot& slot, const BulkLoad& load) {
    for (const BulkPiece& piece : load.pieces) {
        if (piece.global == nullptr) {
            fill(slot, piece, 0);
            continue;
        }
        const std::uint32_t offset = piece.shared - slot.shared_base;
        copy_piece(slot.shared->data() + offset, piece.global, piece.bytes);
        copy_piece(async_view(slot) + offset, piece.global, piece.bytes);
    }
    complete_bytes(slot, slot.mbarriers.at(load.mbarrier), load.bytes);
}

void read(BulkStore& store) {
    for (const BulkPiece& piece : store.pieces) {
        const unsigned char* from = check_async_read(piece.shared, piece.bytes, 1, "cp.async.bulk.tensor store");
        store.bytes.insert(store.bytes.end(), from, from + piece.bytes);
    }
}

void write(const BulkStore& store) {
    const unsigned char* from = store.bytes.data();
    for (const BulkPiece& piece : store.pieces) {
        copy_piece(piece.global, from, piece.bytes);
        from += piece.bytes;
    }
}

void* race_thread_of(Thread& self, void*& thread, const char* what) {
    if (thread == nullptr) {
        thread = race::create_thread();
        race::name_thread(thread, what + describe_thread(self));
    }
    return thread;
}

unsigned own_block() { return 1u << this_thread().warp->slot->rank; }

// Into the shared memory of one block; `load` has its offsets, which are the same in each.
void issue_load_into(Slot& slot, BulkLoad load, const char* name) {
    Thread& self = this_thread();
    for (const BulkPiece& piece : load.pieces) {
        shared_pointer_in(slot, piece.shared, piece.bytes, 1, name);
        load.bytes += piece.bytes;
    }
    MemoryBarrier& mbarrier = find_mbarrier(slot, load.mbarrier, name);
    if (!mbarrier.known_to_async_proxy) {
        fail(std::string(name) +
             ": its barrier was initialised with no fence.mbarrier_init or fence.proxy.async since");
    }
    if (&slot != self.warp->slot) check_known_to_cluster(slot, mbarrier, name);
    if (race::kEnabled) {
        race::switch_to(self.load_race_thread);
        for (const BulkPiece& piece : load.pieces) {
            race::write(slot.shared->data() + (piece.shared - slot.shared_base), piece.bytes);
        }
        race::release(&mbarrier.edge.object[mbarrier.phase & 1]);
        race::release(&mbarrier.proxy_edge.object[mbarrier.phase & 1]);
        race::switch_to(self.warp->slot->global_race_thread);
        for (const BulkPiece& piece : load.pieces) {
            if (piece.global != nullptr) race::read(piece.global, piece.bytes);
        }
        race::release(&mbarrier.edge.object[mbarrier.phase & 1]);
        race::switch_to(self.fiber.race_thread());
    }
    if (at_once(slot, slot.loads)) {
        land(slot, load);
        return;
    }
    for (const BulkPiece& piece : load.pieces) fill(slot, piece, slot.poison);
    slot.loads_in_flight.push_back(std::move(load));
}

// `blocks`: a set of ranks in the cluster.
void issue_load(const BulkLoad& load, std::uint32_t destination, unsigned blocks, const char* name) {
    Thread& self = this_thread();
    if (destination % 128 != 0) fail(std::string(name) + ": the destination is not aligned to 128");
    ++self.warp->slot->worker->statistics.bulk_copies;
    if (race::kEnabled) {
        race::release(&self.bulk_edge);
        race::switch_to(race_thread_of(self, self.load_race_thread, "a bulk load by "));
        race::acquire(&self.bulk_edge);
        race::switch_to(self.fiber.race_thread());
    }
    for (unsigned rank = 0; blocks >> rank != 0; ++rank) {
        if (blocks >> rank & 1) issue_load_into(block_of_rank(rank, name), load, name);
    }
}

}  // namespace

TensorMap encode_tiled(void* data, unsigned element_bytes, unsigned rank, const std::uint64_t* sizes,
                       const std::uint64_t* strides, const unsigned* box, Swizzle swizzle) {
    TensorMap map = begin(data, element_bytes, rank, sizes, strides, swizzle);
    for (unsigned i = 0; i < rank; ++i) {
        if (box[i] == 0 || box[i] > 256) reject("a box of 1 to 256 elements is wanted in each dimension");
        map.box[i] = box[i];
    }
    check_common(map, box[0] * element_bytes);
    return map;
}

TensorMap encode_im2col(void* data, unsigned element_bytes, const std::uint64_t (&sizes)[4],
                        const std::uint64_t (&strides)[3], const int (&lower)[2], const int (&upper)[2],
                        unsigned channels, unsigned pixels, const unsigned (&steps)[2], Swizzle swizzle) {
    TensorMap map = begin(data, element_bytes, 4, sizes, strides, swizzle);
    map.im2col = true;
    map.channels = channels;
    map.pixels = pixels;
    for (int i = 0; i < 2; ++i) {
        if (lower[i] < -128 || lower[i] > 127 || upper[i] < -128 || upper[i] > 127) {
            reject("corners of -128 to 127 are wanted");
        }
        if (steps[i] == 0 || steps[i] > 8) reject("steps of 1 to 8 are wanted");
        if (lower[i] > std::int64_t(sizes[i + 1]) - 1 + upper[i]) reject("the box of an image is empty");
        map.lower[i] = lower[i];
        map.upper[i] = upper[i];
        map.steps[i] = steps[i];
    }
    if (channels == 0 || channels > 256) reject("1 to 256 channels are wanted");
    if (pixels == 0 || pixels > 1024) reject("1 to 1024 pixels are wanted");
    check_common(map, channels * element_bytes);
    return map;
}

void bulk_load(std::uint32_t destination, const TensorMap& map, std::uint32_t mbarrier, const int* coordinates,
               unsigned rank) {
    const race::Quiet quiet;
    constexpr const char* kName = "cp.async.bulk.tensor load";
    if (map.im2col || map.rank != rank) fail(std::string(kName) + ": the tensor map is for another kind of copy");
    issue_load({box_pieces(map, destination, coordinates, false), mbarrier, 0}, destination, own_block(), kName);
}

void bulk_load_multicast(std::uint32_t destination, const TensorMap& map, std::uint32_t mbarrier,
                         const int* coordinates, unsigned rank, unsigned blocks) {
    const race::Quiet quiet;
    constexpr const char* kName = "cp.async.bulk.tensor multicast load";
    if (map.im2col || map.rank != rank) fail(std::string(kName) + ": the tensor map is for another kind of copy");
    if (blocks == 0) fail(std::string(kName) + ": to no block at all");
    issue_load({box_pieces(map, destination, coordinates, false), mbarrier, 0}, destination, blocks, kName);
}

void bulk_load_im2col(std::uint32_t destination, const TensorMap& map, std::uint32_t mbarrier,
                      const int (&coordinates)[4], const unsigned (&offsets)[2]) {
    const race::Quiet quiet;
    constexpr const char* kName = "cp.async.bulk.tensor im2col load";
    if (!map.im2col) fail(std::string(kName) + ": the tensor map is for another kind of copy");
    if (offsets[0] > 255 || offsets[1] > 255) fail(std::string(kName) + ": offsets of 0 to 255 are wanted");
    std::int64_t base[2] = {coordinates[1], coordinates[2]}, last[2], n = coordinates[3];
    for (int i = 0; i < 2; ++i) {
        last[i] = std::int64_t(map.sizes[i + 1]) - 1 + map.upper[i];
        if (base[i] < map.lower[i] || base[i] > last[i] || (base[i] - map.lower[i]) % map.steps[i] != 0) {
            fail(std::string(kName) + ": starts at " + std::to_string(base[i]) + " of " + (i == 0 ? "W" : "H") +
                 ", and its box has " + std::to_string(map.lower[i]) + " to " + std::to_string(last[i]) +
                 " in steps of " + std::to_string(map.steps[i]));
        }
    }
    BulkLoad load = {{}, mbarrier, 0};
    const Rows rows(map, destination, map.channels * map.element_bytes);
    for (unsigned pixel = 0; pixel < map.pixels; ++pixel) {
        const std::int64_t at[3] = {base[0] + offsets[0], base[1] + offsets[1], n};
        unsigned char* start = map.data;
        for (int i = 0; i < 3; ++i) {
            if (at[i] < 0 || at[i] >= std::int64_t(map.sizes[i + 1])) start = nullptr;
            if (start != nullptr) start += at[i] * map.strides[i + 1];
        }
        add_row(load.pieces, map, rows, pixel, start, coordinates[0], map.channels, false);
        base[0] += map.steps[0];
        if (base[0] <= last[0]) continue;
        base[0] = map.lower[0];
        base[1] += map.steps[1];
        if (base[1] <= last[1]) continue;
        base[1] = map.lower[1];
        ++n;
    }
    issue_load(load, destination, own_block(), kName);
}

bool land_a_load(Cluster& cluster) {
    const race::Quiet quiet;
    Slot* const first = cluster.slots.data();
    std::size_t in_flight = 0;
    for (unsigned i = 0; i < cluster.size; ++i) in_flight += first[i].loads_in_flight.empty() ? 0 : 1;
    if (in_flight == 0) return false;
    std::size_t skip = cluster.size == 1 ? 0 : first->random.below(in_flight);
    unsigned rank = 0;
    while (first[rank].loads_in_flight.empty() || skip-- > 0) ++rank;
    Slot& slot = first[rank];
    const std::size_t drawn = slot.random.below(slot.loads_in_flight.size());
    std::swap(slot.loads_in_flight[drawn], slot.loads_in_flight.back());
    const BulkLoad load = std::move(slot.loads_in_flight.back());
    slot.loads_in_flight.pop_back();
    land(slot, load);
    return true;
}

void bulk_store(const TensorMap& map, std::uint32_t source, const int* coordinates, unsigned rank) {
    const race::Quiet quiet;
    constexpr const char* kName = "cp.async.bulk.tensor store";
    Thread& self = this_thread();
    Slot& slot = *self.warp->slot;
    if (map.im2col || map.rank != rank) fail(std::string(kName) + ": the tensor map is for another kind of copy");
    if (source % 128 != 0) fail(std::string(kName) + ": the source is not aligned to 128");
    for (unsigned i = 0; i < rank; ++i) {
        if (coordinates[i] < 0) fail(std::string(kName) + ": a negative coordinate");
    }
    ++slot.worker->statistics.bulk_copies;
    BulkStore store = {box_pieces(map, source, coordinates, true), self.open_store_group, {}};
    if (race::kEnabled) {
        // Knows what the async proxy may rely on, and that alone.
        release_to_async_proxy(*self.warp, &self.bulk_edge);
        race::switch_to(self.warp->warpgroup.proxy_race_thread);  // a new thread knows what its maker knows
        race::switch_to(race_thread_of(self, self.store_race_thread, "a bulk store by "));
        race::acquire(&self.bulk_edge);
        for (const BulkPiece& piece : store.pieces) {
            race::read(slot.shared->data() + (piece.shared - slot.shared_base), piece.bytes);
        }
        race::release(&end_edge);
        race::release(&self.store_edges[store.group % sizeof self.store_edges]);
        // It writes by itself, for whoever waits for the reading: nobody in this launch knows when.
        race::switch_to(self.warp->warpgroup.proxy_race_thread);
        race::switch_to(race_thread_of(self, self.write_race_thread, "a bulk store by "));
        race::acquire(&self.bulk_edge);
        for (const BulkPiece& piece : store.pieces) race::write(piece.global, piece.bytes);
        race::release(&end_edge);
        race::switch_to(self.fiber.race_thread());
    }
    if (at_once(slot, slot.stores)) {
        read(store);
        write(store);
        store.pieces.clear();
    }
    self.stores.push_back(std::move(store));
}

void bulk_commit_group() {
    Thread& self = this_thread();
    if (race::kEnabled && self.store_race_thread != nullptr) {  // a group of none stands for those before it
        race::switch_to(self.store_race_thread);
        race::release(&self.store_edges[self.open_store_group % sizeof self.store_edges]);
        race::switch_to(self.fiber.race_thread());
    }
    ++self.open_store_group;
}

void bulk_wait_group_read(unsigned newest_still_pending) {
    const race::Quiet quiet;
    Thread& self = this_thread();
    if (self.open_store_group <= newest_still_pending) return;
    const std::uint64_t pending_from = self.open_store_group - newest_still_pending;
    const auto made = std::find_if(self.stores.begin(), self.stores.end(),
                                   [=](const BulkStore& store) { return store.group >= pending_from; });
    Slot& slot = *self.warp->slot;
    for (auto store = self.stores.begin(); store != made; ++store) {
        if (store->pieces.empty()) continue;
        read(*store);
        if (at_once(slot, slot.stores)) {
            write(*store);
        } else {
            slot.worker->unwritten.push_back(std::move(*store));
        }
    }
    self.stores.erase(self.stores.begin(), made);
    if (race::kEnabled) race::acquire(&self.store_edges[(pending_from - 1) % sizeof self.store_edges]);
}

void write_what_was_stored(Worker& worker) {
    for (const BulkStore& store : worker.unwritten) write(store);
    worker.unwritten.clear();
}

void check_nothing_in_flight(Thread& thread) {
    if (!thread.stores.empty()) {
        fail(
            "returns with no cp.async.bulk.wait_group.read for what it stores: shared memory may go before it is read");
    }
    const Slot& slot = *thread.warp->slot;
    if (slot.unfinished == 1 && !slot.loads_in_flight.empty()) {
        fail("returns, the last of its block, with bulk loads in flight that nobody waited for");
    }
    if (slot.unfinished == 1) check_arrivals_are_ordered(slot);
    if (thread.warp->warpgroup.products.empty()) return;
    fail("returns with no wgmma.wait_group for what its warp multiplies");
}

}  // namespace emulator
