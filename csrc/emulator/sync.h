// Barriers, fences, shuffles and votes.
#pragma once

#include <cstring>
#include <type_traits>

#include "thread.h"

namespace emulator {

constexpr unsigned kAllThreads = 0;  // of the block, as the count of a barrier

// bar.sync and bar.arrive: every lane of the warp executes it together (.aligned).
void barrier_sync(unsigned id, unsigned count, Instruction at);
void barrier_arrive(unsigned id, unsigned count, Instruction at);

void sync_warp(unsigned mask, Instruction at);
void fence();
void pause();  // lets the other threads go on

enum class Shuffle { index, up, down, exclusive_or };
std::uint64_t shuffle(Shuffle kind, unsigned mask, std::uint64_t value, int operand, int width, Instruction at);
unsigned ballot(unsigned mask, bool predicate, Instruction at);

template <typename T>
T shuffle_as(Shuffle kind, unsigned mask, T value, int operand, int width, Instruction at) {
    static_assert(std::is_arithmetic<T>::value && (sizeof(T) == 4 || sizeof(T) == 8), "4 or 8 bytes are shuffled");
    std::uint64_t bits = 0;
    std::memcpy(&bits, &value, sizeof(T));
    bits = shuffle(kind, mask, bits, operand, width, at);
    std::memcpy(&value, &bits, sizeof(T));
    return value;
}

}  // namespace emulator

// The defaulted file and line are those of the call: they name the place in messages.
inline void __syncthreads(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    emulator::barrier_sync(0, emulator::kAllThreads, {"__syncthreads()", file, line});
}
inline void __syncwarp(unsigned mask = 0xffffffffu, const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    emulator::sync_warp(mask, {"__syncwarp()", file, line});
}
inline void __threadfence() { emulator::fence(); }
inline void __threadfence_block() { emulator::fence(); }
inline void __nanosleep(unsigned) { emulator::pause(); }

template <typename T>
T __shfl_sync(unsigned mask, T value, int lane, int width = 32, const char* file = __builtin_FILE(),
              int line = __builtin_LINE()) {
    return emulator::shuffle_as(emulator::Shuffle::index, mask, value, lane, width, {"__shfl_sync", file, line});
}
template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, const char* file = __builtin_FILE(),
                 int line = __builtin_LINE()) {
    return emulator::shuffle_as(emulator::Shuffle::up, mask, value, static_cast<int>(delta), width,
                                {"__shfl_up_sync", file, line});
}
template <typename T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, const char* file = __builtin_FILE(),
                   int line = __builtin_LINE()) {
    return emulator::shuffle_as(emulator::Shuffle::down, mask, value, static_cast<int>(delta), width,
                                {"__shfl_down_sync", file, line});
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = 32, const char* file = __builtin_FILE(),
                  int line = __builtin_LINE()) {
    return emulator::shuffle_as(emulator::Shuffle::exclusive_or, mask, value, lane_mask, width,
                                {"__shfl_xor_sync", file, line});
}

inline unsigned __ballot_sync(unsigned mask, int predicate, const char* file = __builtin_FILE(),
                              int line = __builtin_LINE()) {
    return emulator::ballot(mask, predicate != 0, {"__ballot_sync", file, line});
}
inline int __any_sync(unsigned mask, int predicate, const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    return emulator::ballot(mask, predicate != 0, {"__any_sync", file, line}) != 0;
}
inline int __all_sync(unsigned mask, int predicate, const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    return emulator::ballot(mask, predicate != 0, {"__all_sync", file, line}) == mask;
}
