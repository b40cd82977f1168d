// Running a kernel on the host, and how: seeds, early or late copies, threads of the host.
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>

#include "types.h"

namespace emulator {

// What went wrong, naming kernel, block and thread.
class Error : public std::runtime_error {
    using std::runtime_error::runtime_error;
};

// When an asynchronous copy or product takes effect: as soon as it is issued, only when it is waited for, or either,
// drawn one by one.
enum class Delivery { by_seed, late, early, mixed };

struct Options {
    std::uint64_t seed = 0;  // decides the order of blocks, warps and lanes, the poison, and by_seed's delivery
    Delivery delivery = Delivery::by_seed;             // of copies: cp.async, TMA's loads and stores
    Delivery products = Delivery::by_seed;             // of wgmma
    unsigned host_threads = 1;                         // run that many blocks at once
    double patience = 60;                              // seconds that one thread may run on without a pause
    std::size_t stack_bytes = 0;                       // of each CUDA thread; 0: enough
    std::size_t shared_memory_per_block = 227 * 1024;  // what a launch may ask for
};

// The options of the next launches, for the whole process. First they come from the environment: EMULATOR_SEED,
// EMULATOR_DELIVERY and EMULATOR_PRODUCTS (late, early, mixed), EMULATOR_THREADS.
Options& options();

struct Statistics {
    std::uint64_t ldmatrix = 0;                 // instructions, each of one warp
    std::uint64_t ldmatrix_bank_conflicts = 0;  // extra passes over the banks that they took
    std::uint64_t stmatrix = 0;                 // likewise
    std::uint64_t stmatrix_bank_conflicts = 0;
    std::uint64_t mma = 0;
    std::uint64_t async_copies = 0;
    std::uint64_t wgmma = 0;        // instructions, each of one warp's quarter
    std::uint64_t bulk_copies = 0;  // TMA's, either way
};

Statistics statistics();  // of the last launch that ended

// Memory with an end that cannot be overrun: [data, data + bytes) ends, but for the alignment, at a page that faults.
// Writes just before it, or in the slack behind it, are found when it is checked.
class GuardedMemory {
  public:
    explicit GuardedMemory(std::size_t bytes, std::size_t alignment = 16);
    ~GuardedMemory();
    GuardedMemory(const GuardedMemory&) = delete;
    GuardedMemory& operator=(const GuardedMemory&) = delete;

    unsigned char* data() const { return data_; }
    std::size_t size() const { return size_; }
    bool contains(const void* address) const;   // in the mapping, guard pages included
    const unsigned char* first_damage() const;  // null where the margins are as they were left
    static const GuardedMemory* find(const void* address);

  private:
    std::size_t size_, mapping_bytes_, page_;
    unsigned char *mapping_, *data_;
    GuardedMemory *next_ = nullptr, *previous_ = nullptr;
};

// A launch, with the kernel's type erased.
struct Launch {
    const char* name;
    dim3 grid, block;
    std::size_t shared_bytes;
    unsigned cluster;  // blocks along x that run together
    void (*call)(const void* kernel_and_parameters);
    const void* kernel_and_parameters;
};

void run(const Launch& launch);  // to its end; throws Error

template <typename... Parameters, typename... Arguments>
void launch_clusters(const char* name, void (*kernel)(Parameters...), unsigned cluster, dim3 grid, dim3 block,
                     std::size_t shared_bytes, Arguments&&... arguments) {
    static_assert(sizeof...(Parameters) == sizeof...(Arguments), "one argument for each of the kernel's parameters");
    using Bound = std::tuple<void (*)(Parameters...), Parameters...>;
    const Bound bound(kernel, static_cast<Parameters>(std::forward<Arguments>(arguments))...);
    const auto call = [](const void* kernel_and_parameters) {
        std::apply([](auto function, const auto&... parameters) { function(parameters...); },
                   *static_cast<const Bound*>(kernel_and_parameters));
    };
    run({name, grid, block, shared_bytes, cluster, call, &bound});
}

template <typename... Parameters, typename... Arguments>
void launch(const char* name, void (*kernel)(Parameters...), dim3 grid, dim3 block, std::size_t shared_bytes,
            Arguments&&... arguments) {
    launch_clusters(name, kernel, 1, grid, block, shared_bytes, std::forward<Arguments>(arguments)...);
}

}  // namespace emulator
