// The words of messages: who, where, what waits for what.
#include <algorithm>
#include <cstdio>
#include <utility>

#include "internal.h"

namespace emulator {
namespace {

void add_range(std::string& text, unsigned first, unsigned last) {
    text += (text.empty() ? "" : ", ") + std::to_string(first);
    if (last > first) text += "-" + std::to_string(last);
}

}  // namespace

std::string describe(const Instruction& at) {
    std::string text = at.name;
    if (at.count != 0) text += " " + std::to_string(at.barrier) + ", " + std::to_string(at.count);
    if (at.file != nullptr) text += std::string(" (") + at.file + ":" + std::to_string(at.line) + ")";
    return text;
}

std::string describe_lanes(unsigned lanes) {
    std::string text;
    for (unsigned lane = 0; lane < kLanes; ++lane) {
        if (!(lanes >> lane & 1)) continue;
        unsigned last = lane;
        while (last + 1 < kLanes && lanes >> (last + 1) & 1) ++last;
        add_range(text, lane, last);
        lane = last;
    }
    return text.empty() ? "none" : text;
}

std::string describe(const uint3& at) {
    return "(" + std::to_string(at.x) + ", " + std::to_string(at.y) + ", " + std::to_string(at.z) + ")";
}

std::string describe_block(const Coordinates& at) { return "block " + describe(at.block); }

std::string describe_thread(const Coordinates& at) { return describe_block(at) + ", thread " + describe(at.thread); }

std::string describe_address(const void* address) {
    const auto place = [address](const GuardedMemory& memory, const std::string& name) {
        return "byte " + std::to_string(static_cast<const unsigned char*>(address) - memory.data()) + " of " + name +
               " of " + std::to_string(memory.size()) + " bytes";
    };
    if (current != nullptr) {
        const Thread& self = this_thread();
        if (self.warp->slot->shared->contains(address)) return place(*self.warp->slot->shared, "shared memory");
    }
    if (const GuardedMemory* memory = GuardedMemory::find(address)) return place(*memory, "a guarded buffer");
    char text[32];
    std::snprintf(text, sizeof text, "address %p", address);
    return text;
}

std::string describe(const MemoryBarrier& mbarrier, unsigned parity) {
    return "of byte " + std::to_string(mbarrier.offset) + ", parity " + std::to_string(parity) + " (phase " +
           std::to_string(mbarrier.phase) + " lacks " + std::to_string(mbarrier.pending) + " of " +
           std::to_string(mbarrier.expected) + " arrivals and " + std::to_string(mbarrier.bytes) + " bytes)";
}

namespace {

void describe_waits(std::string& text, const Slot& slot) {
    std::vector<std::pair<std::string, std::string>> waits;  // where, and the threads that wait there
    unsigned first = 0;
    const auto where = [&](unsigned index) {
        const Thread& thread = *slot.threads[index];
        const bool exited = thread.warp->exited >> thread.lane & 1;
        if (exited) return std::string("have exited");
        const std::string at = "wait at " + describe(thread.waits_at);
        return thread.awaits == nullptr ? at : at + " " + describe(*thread.awaits, thread.awaits_parity);
    };
    for (unsigned i = 1; i <= slot.block_threads; ++i) {
        const std::string here = where(first);
        if (i < slot.block_threads && where(i) == here) continue;
        auto same = std::find_if(waits.begin(), waits.end(), [&](const auto& wait) { return wait.first == here; });
        if (same == waits.end()) same = waits.insert(waits.end(), {here, ""});
        add_range(same->second, first, i - 1);
        first = i;
    }
    for (const auto& [place, threads] : waits) text += "; threads " + threads + " " + place;
}

}  // namespace

std::string describe_deadlock(const Cluster& cluster) {
    std::string text = "deadlock: no thread can go on";
    for (unsigned rank = 0; rank < cluster.size; ++rank) {
        if (cluster.size > 1) text += "; " + describe_block(*cluster.slots[rank].threads[0]);
        describe_waits(text, cluster.slots[rank]);
    }
    return text;
}

}  // namespace emulator
