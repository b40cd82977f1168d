// The happens-before edges of a kernel, told to ThreadSanitizer (its runtime calls a fibre what is a thread here).
// The emulator's own sources are compiled with EMULATOR_RACES and without -fsanitize=thread: their accesses are not the
// kernel's. Without EMULATOR_RACES all of this is nothing.
#pragma once

#include <cstddef>
#include <string>

namespace emulator::race {

#ifdef EMULATOR_RACES
constexpr bool kEnabled = true;
constexpr int kSlots = 2;  // blocks that follow one another are compared: they share no thread and no barrier
void* create_thread();
void destroy_thread(void* thread);
void* current_thread();
void name_thread(void* thread, const std::string& name);
void switch_to(void* thread);
void release(void* object);
void acquire(void* object);
void read(const void* address, std::size_t bytes);
void write(void* address, std::size_t bytes);
class Quiet {  // while it lives, what this thread does is the emulator's own business
  public:
    Quiet();
    ~Quiet();
};
std::string take_report();  // the first race since the last call, empty where there was none
#else
constexpr bool kEnabled = false;
constexpr int kSlots = 1;
inline void* create_thread() { return nullptr; }
inline void destroy_thread(void*) {}
inline void* current_thread() { return nullptr; }
inline void name_thread(void*, const std::string&) {}
inline void switch_to(void*) {}
inline void release(void*) {}
inline void acquire(void*) {}
inline void read(const void*, std::size_t) {}
inline void write(void*, std::size_t) {}
struct Quiet {
    Quiet() {}
};
inline std::string take_report() { return {}; }
#endif

}  // namespace emulator::race
