// Shared memory and its 32-bit addresses, asynchronous copies, cache-hinted accesses, atomics.
#pragma once

#include <cstring>

#include "thread.h"

namespace emulator {

// The block's dynamic shared memory. Its end, rounded up to 128 bytes, touches a page that cannot be accessed.
unsigned char* dynamic_shared_memory();

// Shared addresses, as instructions take them: 32 bits, from a base that is not zero. Both fail outside the block's
// shared memory; `shared_pointer` fails also where [address, address + bytes) leaves it or is not aligned to
// `alignment`.
std::uint32_t shared_address(const void* pointer);
unsigned char* shared_pointer(std::uint32_t address, unsigned bytes, unsigned alignment, const char* instruction);

// cp.async: copies source_bytes (at most bytes) from global memory and fills the rest of `bytes` with zeros.
void copy_async(std::uint32_t destination, const void* source, unsigned bytes, unsigned source_bytes);
void commit_async_group();
void wait_async_group(unsigned newest_still_pending);

// Orders an atomic with the fences around it; only the race detector needs to know.
#if defined(__SANITIZE_THREAD__) || defined(EMULATOR_RACES)
void before_atomic(const void* address);
void after_atomic(const void* address);
#else
inline void before_atomic(const void*) {}
inline void after_atomic(const void*) {}
#endif

template <typename T, typename Update>
T atomic_update(T* address, Update update) {
    before_atomic(address);
    T old;
    __atomic_load(address, &old, __ATOMIC_RELAXED);
    T desired = update(old);
    while (!__atomic_compare_exchange(address, &old, &desired, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
        desired = update(old);
    }
    after_atomic(address);
    return old;
}

// Keeps a template from deducing T from this argument, so that atomicAdd(&counter, 1) takes the counter's type.
template <typename T>
struct Same {
    using type = T;
};
template <typename T>
using same_t = typename Same<T>::type;

}  // namespace emulator

inline std::size_t __cvta_generic_to_shared(const void* pointer) { return emulator::shared_address(pointer); }

template <typename T>
T __ldg(const T* address) {
    return *address;
}
template <typename T>
T __ldcg(const T* address) {
    return *address;
}
template <typename T>
T __ldcs(const T* address) {
    return *address;
}
template <typename T>
void __stcg(T* address, emulator::same_t<T> value) {
    *address = value;
}
template <typename T>
void __stcs(T* address, emulator::same_t<T> value) {
    *address = value;
}

template <typename T>
T atomicAdd(T* address, emulator::same_t<T> value) {
    return emulator::atomic_update(address, [=](T old) { return static_cast<T>(old + value); });
}
template <typename T>
T atomicMin(T* address, emulator::same_t<T> value) {
    return emulator::atomic_update(address, [=](T old) { return old < value ? old : value; });
}
template <typename T>
T atomicMax(T* address, emulator::same_t<T> value) {
    return emulator::atomic_update(address, [=](T old) { return old < value ? value : old; });
}
template <typename T>
T atomicAnd(T* address, emulator::same_t<T> value) {
    return emulator::atomic_update(address, [=](T old) { return old & value; });
}
template <typename T>
T atomicOr(T* address, emulator::same_t<T> value) {
    return emulator::atomic_update(address, [=](T old) { return old | value; });
}
template <typename T>
T atomicExch(T* address, emulator::same_t<T> value) {
    return emulator::atomic_update(address, [=](T) { return value; });
}
template <typename T>
T atomicCAS(T* address, emulator::same_t<T> compare, emulator::same_t<T> value) {
    return emulator::atomic_update(address, [=](T old) { return old == compare ? value : old; });
}
inline unsigned atomicInc(unsigned* address, unsigned limit) {
    return emulator::atomic_update(address, [=](unsigned old) { return old >= limit ? 0u : old + 1; });
}
