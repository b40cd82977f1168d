// Shared memory, its addresses, and the copies that land in it later.
#include "memory.h"

#include <algorithm>
#include <cstring>

#include "internal.h"

namespace emulator {
namespace {

// A loop and not memcpy: ThreadSanitizer would take the latter for an access of the thread that happens to run.
void copy(unsigned char* destination, const unsigned char* source, unsigned bytes) {
    for (unsigned i = 0; i < bytes; ++i) static_cast<volatile unsigned char*>(destination)[i] = source[i];
}

void land(const AsyncCopy& pending) {
    unsigned char bytes[16] = {};
    copy(bytes, pending.source, pending.source_bytes);
    copy(pending.destination, bytes, pending.bytes);
}

// To the race detector a copy is made by a thread of its own: whoever issues it goes before, who waits comes after.
void tell_race_detector(Thread& self, const AsyncCopy& pending) {
    if (self.async_race_thread == nullptr) {
        self.async_race_thread = race::create_thread();
        race::name_thread(self.async_race_thread, "a copy by " + describe_thread(self));
    }
    race::release(&self.issue_edge);
    race::switch_to(self.async_race_thread);
    race::acquire(&self.issue_edge);
    race::read(pending.source, pending.source_bytes);
    race::write(pending.destination, pending.bytes);
    race::release(&self.group_edges[pending.group % sizeof self.group_edges]);
    race::switch_to(self.fiber.race_thread());
}

}  // namespace

unsigned char* dynamic_shared_memory() { return this_thread().warp->slot->shared->data(); }

std::uint32_t shared_address(const void* pointer) {
    const Slot& slot = *this_thread().warp->slot;
    const GuardedMemory& shared = *slot.shared;
    const auto offset = static_cast<const unsigned char*>(pointer) - shared.data();
    if (offset < 0 || static_cast<std::size_t>(offset) > shared.size()) {
        fail("the shared address is taken of " + describe_address(pointer) + ", which is not in its shared memory");
    }
    return slot.shared_base + static_cast<std::uint32_t>(offset);
}

unsigned char* shared_pointer(std::uint32_t address, unsigned bytes, unsigned alignment, const char* instruction) {
    return shared_pointer_in(*this_thread().warp->slot, address, bytes, alignment, instruction);
}

unsigned char* shared_pointer_in(Slot& slot, std::uint32_t address, unsigned bytes, unsigned alignment,
                                 const char* instruction) {
    const GuardedMemory& shared = *slot.shared;
    if (address != address_in_block(address)) {
        fail(std::string(instruction) +
             ": takes addresses of its own block's shared memory, not those that mapa makes");
    }
    const std::int64_t offset = std::int64_t{address} - slot.shared_base;
    if (offset < 0 || offset + bytes > static_cast<std::int64_t>(shared.size())) {
        fail(std::string(instruction) + ": bytes " + std::to_string(offset) + " to " +
             std::to_string(offset + bytes - 1) + " of shared memory, which has " + std::to_string(shared.size()));
    }
    if (address % alignment != 0) {
        fail(std::string(instruction) + ": byte " + std::to_string(offset) + " of shared memory is not aligned to " +
             std::to_string(alignment));
    }
    return shared.data() + offset;
}

void copy_async(std::uint32_t destination, const void* source, unsigned bytes, unsigned source_bytes) {
    Thread& self = this_thread();
    Slot& slot = *self.warp->slot;
    unsigned char* into = shared_pointer(destination, bytes, bytes, "cp.async");
    if (reinterpret_cast<std::uintptr_t>(source) % bytes != 0) {
        fail("cp.async: the source is not aligned to the " + std::to_string(bytes) + " bytes that are copied");
    }
    if (source_bytes > bytes) {
        fail("cp.async: src-size " + std::to_string(source_bytes) + " is more than cp-size " + std::to_string(bytes));
    }
    ++slot.worker->statistics.async_copies;
    const AsyncCopy issued = {into, static_cast<const unsigned char*>(source), bytes, source_bytes, self.open_group};
    if (race::kEnabled) tell_race_detector(self, issued);
    if (at_once(slot, slot.delivery)) {
        land(issued);
        return;
    }
    for (unsigned i = 0; i < bytes; ++i) static_cast<volatile unsigned char*>(into)[i] = slot.poison;
    self.copies.push_back(issued);
}

void commit_async_group() { ++this_thread().open_group; }

void wait_async_group(unsigned newest_still_pending) {
    Thread& self = this_thread();
    if (self.open_group <= newest_still_pending) return;
    const std::uint64_t pending_from = self.open_group - newest_still_pending;
    const auto landed = std::find_if(self.copies.begin(), self.copies.end(),
                                     [=](const AsyncCopy& issued) { return issued.group >= pending_from; });
    for (auto issued = self.copies.begin(); issued != landed; ++issued) land(*issued);
    self.copies.erase(self.copies.begin(), landed);
    // Groups complete in order: the newest that is complete stands for those before it.
    if (race::kEnabled) race::acquire(&self.group_edges[(pending_from - 1) % sizeof self.group_edges]);
}

}  // namespace emulator
