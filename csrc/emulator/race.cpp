#include "race.h"

#ifdef EMULATOR_RACES

#include <sanitizer/tsan_interface.h>

#include <cstdint>
#include <cstdio>
#include <cstring>

#include "internal.h"

// What ThreadSanitizer exports without declaring it in a public header.
extern "C" {
void AnnotateIgnoreReadsBegin(const char* file, int line);
void AnnotateIgnoreReadsEnd(const char* file, int line);
void AnnotateIgnoreWritesBegin(const char* file, int line);
void AnnotateIgnoreWritesEnd(const char* file, int line);
void __tsan_read_range(void* address, unsigned long bytes);
void __tsan_write_range(void* address, unsigned long bytes);
int __tsan_get_report_data(void* report, const char** description, int* count, int* stack_count, int* mop_count,
                           int* loc_count, int* mutex_count, int* thread_count, int* unique_tid_count,
                           void** sleep_trace, std::uintptr_t trace_size);
int __tsan_get_report_mop(void* report, std::uintptr_t index, int* tid, void** address, int* size, int* write,
                          int* atomic, void** trace, std::uintptr_t trace_size);
int __tsan_get_report_thread(void* report, std::uintptr_t index, int* tid, std::uint64_t* os_id, int* running,
                             const char** name, int* parent_tid, void** trace, std::uintptr_t trace_size);
void __tsan_on_report(void* report);
}

namespace emulator::race {
namespace {

struct Access {
    void* address;
    int size, write, atomic;
    char thread[96];
};

// Filled inside ThreadSanitizer's own locks, where nothing may be allocated.
struct Report {
    int races = 0;
    char kind[64];
    int accesses;
    Access access[2];
} first;

void describe(std::string& text, const Access& access) {
    text += std::string(access.atomic ? "an atomic " : "a ") + (access.write ? "write" : "read") + " of " +
            std::to_string(access.size) + " bytes by " + access.thread;
}

}  // namespace

void* create_thread() { return __tsan_create_fiber(0); }
void destroy_thread(void* thread) { __tsan_destroy_fiber(thread); }
void* current_thread() { return __tsan_get_current_fiber(); }
void name_thread(void* thread, const std::string& name) { __tsan_set_fiber_name(thread, name.c_str()); }
void switch_to(void* thread) { __tsan_switch_to_fiber(thread, __tsan_switch_to_fiber_no_sync); }
void release(void* object) { __tsan_release(object); }
void acquire(void* object) { __tsan_acquire(object); }
void read(const void* address, std::size_t bytes) { __tsan_read_range(const_cast<void*>(address), bytes); }
void write(void* address, std::size_t bytes) { __tsan_write_range(address, bytes); }

Quiet::Quiet() {
    AnnotateIgnoreReadsBegin(__FILE__, __LINE__);
    AnnotateIgnoreWritesBegin(__FILE__, __LINE__);
}

Quiet::~Quiet() {
    AnnotateIgnoreWritesEnd(__FILE__, __LINE__);
    AnnotateIgnoreReadsEnd(__FILE__, __LINE__);
}

std::string take_report() {
    if (first.races == 0) return {};
    std::string text =
        std::string("data race (") + first.kind + ") at " + describe_address(first.access[0].address) + ": ";
    for (int i = 0; i < first.accesses; ++i) {
        if (i > 0) text += ", and before it, unordered, ";
        describe(text, first.access[i]);
    }
    if (first.races > 1) text += "; " + std::to_string(first.races - 1) + " more like it";
    first.races = 0;
    return text;
}

}  // namespace emulator::race

void __tsan_on_report(void* report) {
    using emulator::race::first;
    if (first.races++ > 0) return;
    const char* kind = "";
    int unused, accesses = 0, threads = 0;
    void* trace[1];
    __tsan_get_report_data(report, &kind, &unused, &unused, &accesses, &unused, &unused, &threads, &unused, trace, 1);
    std::strncpy(first.kind, kind, sizeof first.kind - 1);
    first.accesses = accesses < 2 ? accesses : 2;
    for (int i = 0; i < first.accesses; ++i) {
        emulator::race::Access& access = first.access[i];
        int tid = 0;
        __tsan_get_report_mop(report, i, &tid, &access.address, &access.size, &access.write, &access.atomic, trace, 1);
        std::strcpy(access.thread, "a thread of the host");
        for (int j = 0; j < threads; ++j) {
            int id, running, parent;
            std::uint64_t os_id;
            const char* name = nullptr;
            __tsan_get_report_thread(report, j, &id, &os_id, &running, &name, &parent, trace, 1);
            if (id == tid && name != nullptr && *name != '\0')
                std::strncpy(access.thread, name, sizeof access.thread - 1);
        }
    }
}

#endif
