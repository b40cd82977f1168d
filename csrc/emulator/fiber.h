// A stack of its own, and the switch from one to another.
#pragma once

#include <cstddef>
#include <memory>

#include "launch.h"

#if !defined(EMULATOR_PORTABLE_FIBERS) && !(defined(__ELF__) && (defined(__x86_64__) || defined(__aarch64__)))
#define EMULATOR_PORTABLE_FIBERS
#endif

#ifdef EMULATOR_PORTABLE_FIBERS
#include <ucontext.h>
#endif

namespace emulator {

class Fiber {
  public:
    Fiber() = default;  // what runs already: the host's own thread
    explicit Fiber(std::size_t stack_bytes);
    ~Fiber();
    Fiber(const Fiber&) = delete;
    Fiber& operator=(const Fiber&) = delete;

    void start_at(void (*entry)());  // forgets what the fibre was doing; `entry` never returns
    void switch_to(Fiber& next);     // from this one, which runs
    void forget_frames();            // whoever runs on it goes on from its top
    unsigned char* stack_top() const { return stack_->data() + stack_->size(); }
    bool overflowed(const void* address) const;
    void* race_thread() const { return race_thread_; }
    void adopt_current_thread();  // of the host, each time before it switches to a fibre

  private:
    std::unique_ptr<GuardedMemory> stack_;
    void* race_thread_ = nullptr;
    void* fake_stack_ = nullptr;          // AddressSanitizer's
    const void* stack_bottom_ = nullptr;  // likewise
    std::size_t stack_bytes_ = 0;
#ifdef EMULATOR_PORTABLE_FIBERS
    ucontext_t context_;
#else
    void* stack_pointer_ = nullptr;
#endif
};

}  // namespace emulator
