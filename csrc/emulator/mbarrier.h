// Barriers in shared memory (mbarrier), and the fences between ordinary accesses and the async proxy's.
#pragma once

#include <cstdint>

namespace emulator {

void mbarrier_init(std::uint32_t address, unsigned count);
void mbarrier_arrive(std::uint32_t address);
void mbarrier_arrive_cluster(std::uint32_t address);  // one that mapa made
void mbarrier_arrive_expect_tx(std::uint32_t address, unsigned bytes);
void mbarrier_wait(std::uint32_t address, unsigned parity);  // until the phase of that parity has completed

void fence_mbarrier_init();  // makes this thread's mbarrier_init known to the async proxy
void fence_async_proxy();    // makes it and every ordinary write so far known to it

}  // namespace emulator
