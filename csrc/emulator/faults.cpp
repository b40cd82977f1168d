// Guarded memory, and what becomes of a fault in a kernel's thread.
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstring>
#include <mutex>
#include <system_error>

#include "internal.h"

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#endif

#if defined(__linux__) && (defined(__x86_64__) || defined(__aarch64__))
#define EMULATOR_CATCHES_FAULTS
#include <sys/syscall.h>
#include <time.h>
#include <ucontext.h>
#endif

namespace emulator {
namespace {

constexpr unsigned char kMargin = 0xa5;

std::mutex memory_mutex;
GuardedMemory* all_memory = nullptr;

#ifdef __SANITIZE_ADDRESS__
// AddressSanitizer ends the process after its report: it is told here, last of all, whose access it was.
void name_thread_behind_report(const char*) {
    if (current == nullptr) return;
    const std::string text = std::string("kernel ") + this_thread().warp->slot->worker->launch->name + ", " +
                             describe_thread(*current) + ": out-of-range access, at " +
                             describe_address(__asan_get_report_address()) + "\n";
    if (write(STDERR_FILENO, text.data(), text.size()) < 0) return;
}
#endif

}  // namespace

GuardedMemory::GuardedMemory(std::size_t bytes, std::size_t alignment) : size_(bytes) {
    page_ = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
    const std::size_t aligned = (bytes + alignment - 1) / alignment * alignment;
    const std::size_t inside = (aligned + page_ - 1) / page_ * page_;
    mapping_bytes_ = inside + 2 * page_;
    void* mapping = mmap(nullptr, mapping_bytes_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapping == MAP_FAILED ||
        (inside > 0 && mprotect(static_cast<unsigned char*>(mapping) + page_, inside, PROT_READ | PROT_WRITE) != 0)) {
        throw std::system_error(errno, std::generic_category(), "emulator: no memory");
    }
    mapping_ = static_cast<unsigned char*>(mapping);
    data_ = mapping_ + page_ + inside - aligned;
    std::memset(mapping_ + page_, kMargin, static_cast<std::size_t>(data_ - mapping_) - page_);
    std::memset(data_ + size_, kMargin, aligned - size_);
#ifdef __SANITIZE_ADDRESS__
    __asan_poison_memory_region(mapping_, static_cast<std::size_t>(data_ - mapping_));
    __asan_poison_memory_region(data_ + size_, aligned - size_ + page_);
#endif
    const std::lock_guard<std::mutex> lock(memory_mutex);
    next_ = all_memory;
    if (next_ != nullptr) next_->previous_ = this;
    all_memory = this;
}

GuardedMemory::~GuardedMemory() {
    {
        const std::lock_guard<std::mutex> lock(memory_mutex);
        (previous_ != nullptr ? previous_->next_ : all_memory) = next_;
        if (next_ != nullptr) next_->previous_ = previous_;
    }
#ifdef __SANITIZE_ADDRESS__
    __asan_unpoison_memory_region(mapping_, mapping_bytes_);
#endif
    munmap(mapping_, mapping_bytes_);
}

bool GuardedMemory::contains(const void* address) const {
    return address >= mapping_ && address < mapping_ + mapping_bytes_;
}

#ifdef __SANITIZE_ADDRESS__
// AddressSanitizer watches the margins itself, and better: at the access.
const unsigned char* GuardedMemory::first_damage() const { return nullptr; }
#else
const unsigned char* GuardedMemory::first_damage() const {
    for (const unsigned char* at = mapping_ + page_; at < data_; ++at) {
        if (*at != kMargin) return at;
    }
    for (const unsigned char* at = data_ + size_; at < mapping_ + mapping_bytes_ - page_; ++at) {
        if (*at != kMargin) return at;
    }
    return nullptr;
}
#endif

const GuardedMemory* GuardedMemory::find(const void* address) {
    const GuardedMemory* found = all_memory;
    while (found != nullptr && !found->contains(address)) found = found->next_;
    return found;
}

#ifdef EMULATOR_CATCHES_FAULTS

namespace {

constexpr int kSignals[] = {SIGSEGV, SIGBUS, SIGILL, SIGTRAP, SIGFPE, SIGVTALRM};
constexpr int kPatienceTicks = 4;
constexpr std::size_t kAlternateStackBytes = 64 * 1024;

std::mutex handler_mutex;
int handlings = 0;
struct sigaction previous_actions[NSIG];

thread_local struct {
    int signal;
    const void* address;
    std::uint64_t switches_seen;
    int ticks_without_switch;
} fault;

// Where a faulting thread goes on, on its own stack from the top: what it was doing is lost.
[[noreturn]] void report_fault() {
    const Fiber& fiber = this_thread().fiber;
    std::string what;
    switch (fault.signal) {
        case SIGILL:
        case SIGTRAP:
            what = "misaligned access, or another check that the compiler put in";
            break;
        case SIGFPE:
            what = "integer division by zero";
            break;
        case SIGVTALRM:
            what = "runs on and on without reaching a barrier, a pause or its end";
            break;
        default:
            what = fiber.overflowed(fault.address) ? "stack overflow (emulator::Options::stack_bytes)"
                                                   : "out-of-range access, at " + describe_address(fault.address);
            // A misaligned vector instruction faults without an address.
            if (fault.address == nullptr) what = "access through a null pointer, or a misaligned vector access";
    }
    abandon_block(std::move(what));
}

void leave_for(void (*function)(), void* context) {
    auto& registers = static_cast<ucontext_t*>(context)->uc_mcontext;
    const auto top = reinterpret_cast<std::uintptr_t>(this_thread().fiber.stack_top()) & ~std::uintptr_t{15};
#ifdef __x86_64__
    registers.gregs[REG_RSP] = static_cast<greg_t>(top - 8);
    registers.gregs[REG_RIP] = reinterpret_cast<greg_t>(function);
#else
    registers.sp = top;
    registers.pc = reinterpret_cast<std::uintptr_t>(function);
#endif
}

void handle(int signal, siginfo_t* info, void* context) {
    if (current == nullptr) {
        if (signal != SIGVTALRM) sigaction(signal, &previous_actions[signal], nullptr);  // it happens again, to them
        return;
    }
    if (signal == SIGVTALRM) {
        const std::uint64_t switches = this_thread().warp->slot->worker->switches;
        fault.ticks_without_switch = switches == fault.switches_seen ? fault.ticks_without_switch + 1 : 0;
        fault.switches_seen = switches;
        if (fault.ticks_without_switch < kPatienceTicks) return;
        fault.ticks_without_switch = 0;
    }
    fault.signal = signal;
    fault.address = info->si_addr;
    this_thread().fiber.forget_frames();
    leave_for(report_fault, context);
}

}  // namespace

FaultHandling::FaultHandling(double patience) {
#ifdef __SANITIZE_ADDRESS__
    __asan_set_error_report_callback(name_thread_behind_report);
#endif
    stack_t alternate = {};
    sigaltstack(nullptr, &alternate);
    if (alternate.ss_flags & SS_DISABLE) {  // an overflowed stack has no room for a handler
        alternate.ss_sp = own_alternate_stack_ = ::operator new(kAlternateStackBytes);
        alternate.ss_size = kAlternateStackBytes;
        alternate.ss_flags = 0;
        sigaltstack(&alternate, nullptr);
    }
    {
        const std::lock_guard<std::mutex> lock(handler_mutex);
        if (handlings++ == 0) {
            struct sigaction action = {};
            action.sa_sigaction = handle;
            action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART | SA_NODEFER;
            for (int signal : kSignals) sigaction(signal, &action, &previous_actions[signal]);
        }
    }
    fault = {};
    sigevent event = {};
    event.sigev_notify = SIGEV_THREAD_ID;
    event.sigev_signo = SIGVTALRM;
    event._sigev_un._tid = static_cast<pid_t>(syscall(SYS_gettid));
    timer_t timer;
    if (timer_create(CLOCK_THREAD_CPUTIME_ID, &event, &timer) == 0) {
        timer_ = timer;
        has_timer_ = true;
        const double tick = patience / kPatienceTicks;
        itimerspec interval = {};
        interval.it_value.tv_sec = static_cast<time_t>(tick);
        interval.it_value.tv_nsec = static_cast<long>((tick - static_cast<double>(interval.it_value.tv_sec)) * 1e9);
        interval.it_interval = interval.it_value;
        timer_settime(timer, 0, &interval, nullptr);
    }
}

FaultHandling::~FaultHandling() {
    if (has_timer_) timer_delete(timer_);
    {
        const std::lock_guard<std::mutex> lock(handler_mutex);
        if (--handlings == 0) {
            for (int signal : kSignals) sigaction(signal, &previous_actions[signal], nullptr);
        }
    }
    if (own_alternate_stack_ != nullptr) {
        stack_t none = {};
        none.ss_flags = SS_DISABLE;
        sigaltstack(&none, nullptr);
        ::operator delete(own_alternate_stack_);
    }
}

#else

FaultHandling::FaultHandling(double) {}
FaultHandling::~FaultHandling() {}

#endif

}  // namespace emulator
