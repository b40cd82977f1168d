// Memory that comes back: mappings for large outputs, kept when they are returned, for the next one of about their
// size.
#pragma once

#include <cstddef>

namespace alexkern::memory {

struct Block {
    void* start;
    std::size_t bytes;
};

// At least `bytes`, in huge pages where the kernel has them; at nullptr where there is no memory. What lies in it is
// anything. Any thread may take and give back.
Block take(std::size_t bytes);
void give_back(Block block);

// How much may be kept; at first nothing. What is kept beyond goes back to the system, the longest kept first.
void keep(std::size_t bytes);

// All that is kept goes back to the system. Returns how many bytes that were.
std::size_t release();

struct Use {
    std::size_t kept, lent;  // bytes
};
Use use();

}  // namespace alexkern::memory
