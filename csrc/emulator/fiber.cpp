#include "fiber.h"

#include <cstdint>
#include <cstring>

#include "race.h"

#ifdef __SANITIZE_ADDRESS__
#include <pthread.h>
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

#ifndef EMULATOR_PORTABLE_FIBERS

// Saves what a call must preserve on the stack, keeps the stack's address in *from, and goes on where `to` was kept.
extern "C" void emulator_switch_stack(void** from, void* to);

#ifdef __x86_64__
asm(R"(
.pushsection .text
.globl emulator_switch_stack
.hidden emulator_switch_stack
.type emulator_switch_stack, @function
emulator_switch_stack:
    endbr64
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    popq %rcx
    jmp *%rcx
.size emulator_switch_stack, . - emulator_switch_stack
.popsection
)");
constexpr int kSavedWords = 7;  // with the address to go on at
constexpr int kReturnWord = 6;
constexpr int kWordsAboveEntry = 1;  // as after a call: the stack is 8 off a multiple of 16
#else
asm(R"(
.pushsection .text
.globl emulator_switch_stack
.hidden emulator_switch_stack
.type emulator_switch_stack, %function
emulator_switch_stack:
    sub sp, sp, #160
    stp x19, x20, [sp, #0]
    stp x21, x22, [sp, #16]
    stp x23, x24, [sp, #32]
    stp x25, x26, [sp, #48]
    stp x27, x28, [sp, #64]
    stp x29, x30, [sp, #80]
    stp d8, d9, [sp, #96]
    stp d10, d11, [sp, #112]
    stp d12, d13, [sp, #128]
    stp d14, d15, [sp, #144]
    mov x9, sp
    str x9, [x0]
    mov sp, x1
    ldp x19, x20, [sp, #0]
    ldp x21, x22, [sp, #16]
    ldp x23, x24, [sp, #32]
    ldp x25, x26, [sp, #48]
    ldp x27, x28, [sp, #64]
    ldp x29, x30, [sp, #80]
    ldp d8, d9, [sp, #96]
    ldp d10, d11, [sp, #112]
    ldp d12, d13, [sp, #128]
    ldp d14, d15, [sp, #144]
    add sp, sp, #160
    ret
.size emulator_switch_stack, . - emulator_switch_stack
.popsection
)");
constexpr int kSavedWords = 20;
constexpr int kReturnWord = 11;  // x30
constexpr int kWordsAboveEntry = 2;
#endif

#endif

namespace emulator {

Fiber::Fiber(std::size_t stack_bytes)
    : stack_(std::make_unique<GuardedMemory>(stack_bytes)),
      race_thread_(race::create_thread()),
      stack_bottom_(stack_->data()),
      stack_bytes_(stack_->size()) {}

Fiber::~Fiber() {
    if (stack_ && race_thread_) race::destroy_thread(race_thread_);
}

bool Fiber::overflowed(const void* address) const { return address < stack_->data() && stack_->contains(address); }

void Fiber::adopt_current_thread() {
    race_thread_ = race::current_thread();
#ifdef __SANITIZE_ADDRESS__
    pthread_attr_t attributes;
    void* bottom = nullptr;
    pthread_getattr_np(pthread_self(), &attributes);
    pthread_attr_getstack(&attributes, &bottom, &stack_bytes_);
    pthread_attr_destroy(&attributes);
    stack_bottom_ = bottom;
#endif
}

void Fiber::forget_frames() {
#ifdef __SANITIZE_ADDRESS__
    __asan_unpoison_memory_region(stack_->data(), stack_->size());
#endif
}

void Fiber::start_at(void (*entry)()) {
    forget_frames();
    fake_stack_ = nullptr;
#ifdef EMULATOR_PORTABLE_FIBERS
    getcontext(&context_);
    context_.uc_stack.ss_sp = stack_->data();
    context_.uc_stack.ss_size = stack_->size();
    context_.uc_link = nullptr;
    makecontext(&context_, entry, 0);
#else
    void** top = reinterpret_cast<void**>(reinterpret_cast<std::uintptr_t>(stack_top()) & ~std::uintptr_t{15});
    void** saved = top - kWordsAboveEntry - kSavedWords;
    std::memset(saved, 0, (kWordsAboveEntry + kSavedWords) * sizeof(void*));
    saved[kReturnWord] = reinterpret_cast<void*>(entry);
    stack_pointer_ = saved;
#endif
}

void Fiber::switch_to(Fiber& next) {
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_start_switch_fiber(&fake_stack_, next.stack_bottom_, next.stack_bytes_);
#endif
    race::switch_to(next.race_thread_);
#ifdef EMULATOR_PORTABLE_FIBERS
    swapcontext(&context_, &next.context_);
#else
    emulator_switch_stack(&stack_pointer_, next.stack_pointer_);
#endif
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_finish_switch_fiber(fake_stack_, nullptr, nullptr);
#endif
}

}  // namespace emulator
