// A launch: its blocks, or clusters of them, in an order drawn by the seed, on one or several threads of the host.
#include "launch.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <mutex>
#include <numeric>
#include <thread>
#include <vector>

#include "internal.h"

namespace emulator {
namespace {

std::mutex mutex;                                                // of the idle workers and the last statistics
auto& idle_workers = *new std::vector<std::unique_ptr<Worker>>;  // kept to the end: they are dear to make
Statistics last_statistics;

Delivery delivery_from_environment(const char* variable) {
    const char* value = std::getenv(variable);
    const std::string name = value != nullptr ? value : "";
    if (name == "late") return Delivery::late;
    if (name == "early") return Delivery::early;
    return name == "mixed" ? Delivery::mixed : Delivery::by_seed;
}

Options options_from_environment() {
    Options options;
    if (const char* seed = std::getenv("EMULATOR_SEED")) options.seed = std::strtoull(seed, nullptr, 10);
    if (const char* threads = std::getenv("EMULATOR_THREADS")) {
        options.host_threads = std::max(1, std::atoi(threads));
    }
    options.delivery = delivery_from_environment("EMULATOR_DELIVERY");
    options.products = delivery_from_environment("EMULATOR_PRODUCTS");
    return options;
}

void check(const Launch& launch, const Options& options) {
    const std::uint64_t threads = std::uint64_t{launch.block.x} * launch.block.y * launch.block.z;
    const auto reject = [&](const std::string& what) {
        throw Error(std::string("kernel ") + launch.name + ": " + what);
    };
    if (threads == 0 || threads > 1024 || launch.block.z > 64) {
        reject("block " + describe(uint3{launch.block.x, launch.block.y, launch.block.z}) +
               ": 1 to 1024 threads are wanted, z up to 64");
    }
    if (launch.grid.x == 0 || launch.grid.x > 0x7fffffffu || launch.grid.y == 0 || launch.grid.y > 65535 ||
        launch.grid.z == 0 || launch.grid.z > 65535) {
        reject("grid " + describe(uint3{launch.grid.x, launch.grid.y, launch.grid.z}) +
               ": 1 to 2147483647 blocks are wanted in x, 1 to 65535 in y and z");
    }
    if (launch.cluster == 0 || launch.cluster > kMostBlocksOfACluster || launch.grid.x % launch.cluster != 0) {
        reject("clusters of " + std::to_string(launch.cluster) + " blocks in a grid of " +
               std::to_string(launch.grid.x) + ": 1 to " + std::to_string(kMostBlocksOfACluster) +
               " that divide it are wanted");
    }
    if (launch.shared_bytes > options.shared_memory_per_block) {
        reject(std::to_string(launch.shared_bytes) + " bytes of shared memory asked for, a block can have " +
               std::to_string(options.shared_memory_per_block));
    }
}

std::unique_ptr<Worker> take_worker() {
    const std::lock_guard<std::mutex> lock(mutex);
    if (idle_workers.empty()) {
        auto worker = std::make_unique<Worker>();
        for (Cluster& cluster : worker->clusters) {
            for (Slot& slot : cluster.slots) slot.worker = worker.get();
        }
        return worker;
    }
    auto worker = std::move(idle_workers.back());
    idle_workers.pop_back();
    return worker;
}

// Runs clusters until none is left or one went wrong; returns what went wrong.
std::string work(const Launch& launch, const Options& options, const std::vector<std::uint64_t>& order,
                 std::atomic<std::size_t>& next_cluster, Statistics& statistics) {
    std::unique_ptr<Worker> worker = take_worker();
    worker->host.adopt_current_thread();
    const race::Quiet quiet;
    race::release(&start_edge);  // this thread's start goes before what the kernel's threads do on it
    worker->launch = &launch;
    worker->statistics = {};
    std::string error;
    {
        const FaultHandling handling(options.patience);
        try {
            for (std::size_t i; (i = next_cluster++) < order.size();) {
                run_cluster(worker->clusters[i % race::kSlots], launch, options, order[i]);
            }
        } catch (const Error& caught) {
            error = caught.what();
            next_cluster = order.size();
        }
    }
    if (error.empty()) write_what_was_stored(*worker);
    worker->unwritten.clear();
    statistics = worker->statistics;
    const std::lock_guard<std::mutex> lock(mutex);
    idle_workers.push_back(std::move(worker));
    return error;
}

}  // namespace

Options& options() {
    static Options instance = options_from_environment();
    return instance;
}

Statistics statistics() {
    const std::lock_guard<std::mutex> lock(mutex);
    return last_statistics;
}

void run(const Launch& launch) {
    const Options options = emulator::options();
    check(launch, options);
    std::vector<std::uint64_t> order(std::uint64_t{launch.grid.x} / launch.cluster * launch.grid.y * launch.grid.z);
    std::iota(order.begin(), order.end(), 0);
    Random random{options.seed};
    for (std::size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[random.below(i)]);

    race::release(&start_edge);
    std::atomic<std::size_t> next_cluster{0};
    const std::size_t workers = std::min<std::size_t>(options.host_threads, order.size());
    std::vector<Statistics> statistics(workers);
    std::vector<std::string> errors(workers);
    std::vector<std::thread> helpers;
    for (std::size_t i = 1; i < workers; ++i) {
        helpers.emplace_back([&, i] { errors[i] = work(launch, options, order, next_cluster, statistics[i]); });
    }
    errors[0] = work(launch, options, order, next_cluster, statistics[0]);
    for (std::thread& helper : helpers) helper.join();
    race::acquire(&end_edge);

    Statistics sum;
    for (const Statistics& part : statistics) {
        sum.ldmatrix += part.ldmatrix;
        sum.ldmatrix_bank_conflicts += part.ldmatrix_bank_conflicts;
        sum.stmatrix += part.stmatrix;
        sum.stmatrix_bank_conflicts += part.stmatrix_bank_conflicts;
        sum.mma += part.mma;
        sum.async_copies += part.async_copies;
        sum.wgmma += part.wgmma;
        sum.bulk_copies += part.bulk_copies;
    }
    {
        const std::lock_guard<std::mutex> lock(mutex);
        last_statistics = sum;
    }
    const std::string raced = race::take_report();
    if (!raced.empty()) throw Error(std::string("kernel ") + launch.name + ": " + raced);
    for (const std::string& error : errors) {
        if (!error.empty()) throw Error(error);
    }
}

}  // namespace emulator
