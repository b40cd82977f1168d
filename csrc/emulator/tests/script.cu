// Scripts of instructions on the emulator: every wrapper of csrc/cuda/ptx by its name, on operands from a file.
// tests/test_ptx.py performs the same scripts by the assembly text of the same wrappers, and compares what each
// instruction returned and what memory holds at the end.
//
//   script FILE RESULTS      performs the scripts of FILE
//   script                   prints the wrappers' names, in the order of their numbers
#include <algorithm>
#include <fstream>

#include "../../cuda/ptx/barrier.cuh"
#include "../../cuda/ptx/cluster.cuh"
#include "../../cuda/ptx/cp_async.cuh"
#include "../../cuda/ptx/ldmatrix.cuh"
#include "../../cuda/ptx/mbarrier.cuh"
#include "../../cuda/ptx/mma.cuh"
#include "../../cuda/ptx/stmatrix.cuh"
#include "../../cuda/ptx/tma.cuh"
#include "../../cuda/ptx/warpgroup.cuh"
#include "../../cuda/ptx/wgmma.cuh"
#include "harness.h"

namespace {

using ptx::bfloat16;
using ptx::float16;
using ptx::Swizzle;
using Word = std::uint32_t;

constexpr int kOperands = 10, kResults = 4, kRegisters = 128;

struct Step {
    Word active, operand[kOperands];
};

// One instruction of one thread. Operands that are addresses of shared or global memory are offsets from its start.
struct Call {
    const Word* x;
    Word* result;
    float* sums;  // [kRegisters], that wgmma accumulates in
    unsigned char *memory, *global;
    const ptx::TensorMap* maps;

    Word operator[](int i) const { return x[i]; }
    int whole(int i) const { return static_cast<int>(x[i]); }
    float value(int i) const { return __uint_as_float(x[i]); }
    std::uint16_t half(int i) const { return static_cast<std::uint16_t>(x[i]); }
    Word shared(int i) const { return ptx::shared_address(memory) + x[i]; }
    Word& word(int i) const { return *reinterpret_cast<Word*>(memory + x[i]); }
};

template <int kCount>
void load(const Call& c, void (*load)(Word (&)[kCount], Word)) {
    Word registers[kCount];
    load(registers, c.shared(0));
    std::copy(registers, registers + kCount, c.result);
}

void multiply(const Call& c, void (*multiply)(float (&)[4], const Word (&)[4], const Word (&)[2])) {
    float d[4];
    for (int i = 0; i < 4; ++i) d[i] = c.value(6 + i);
    multiply(d, {c[0], c[1], c[2], c[3]}, {c[4], c[5]});
    for (int i = 0; i < 4; ++i) c.result[i] = __float_as_uint(d[i]);
}

// Swizzle's bytes, both matrices' starts, stride and leading; accumulate.
template <typename T, int kN, bool kTransposedA, bool kTransposedB>
void wgmma(const Call& c) {
    const auto describe = [&](int start) {
        if (c[0] == 128) return ptx::matrix_descriptor<Swizzle::bytes_128>(c.shared(start), c[2], c[start + 1]);
        if (c[0] == 64) return ptx::matrix_descriptor<Swizzle::bytes_64>(c.shared(start), c[2], c[start + 1]);
        return ptx::matrix_descriptor<Swizzle::bytes_32>(c.shared(start), c[2], c[start + 1]);
    };
    auto& sums = *reinterpret_cast<float (*)[kN / 2]>(c.sums);
    ptx::wgmma<T, kN, kTransposedA, kTransposedB>(sums, describe(3), describe(5), c[1] != 0);
}

template <int kPending>
void wait(const Call& c) {
    ptx::wgmma_wait_group<kPending>(*reinterpret_cast<float (*)[kRegisters]>(c.sums));
}

struct Wrapper {
    std::string name;
    void (*perform)(const Call& c);
};

template <typename T, int kN>
void add_wgmma(std::vector<Wrapper>& all, const std::string& type) {
    const std::string name = "wgmma<" + type + "," + std::to_string(kN) + ",";
    all.push_back({name + "false,false>", wgmma<T, kN, false, false>});
    all.push_back({name + "false,true>", wgmma<T, kN, false, true>});
    all.push_back({name + "true,false>", wgmma<T, kN, true, false>});
    all.push_back({name + "true,true>", wgmma<T, kN, true, true>});
}

template <typename T>
void add_wgmma(std::vector<Wrapper>& all, const std::string& type) {
    add_wgmma<T, 64>(all, type);
    add_wgmma<T, 96>(all, type);
    add_wgmma<T, 128>(all, type);
    add_wgmma<T, 192>(all, type);
    add_wgmma<T, 256>(all, type);
}

std::vector<Wrapper> wrappers() {
    std::vector<Wrapper> all = {
        // Ordinary accesses and barriers, and what the 128 registers hold at first.
        {"store", [](const Call& c) { c.word(0) = c[1]; }},
        {"load", [](const Call& c) { c.result[0] = c.word(0); }},
        {"syncthreads", [](const Call&) { __syncthreads(); }},
        {"fill", [](const Call& c) { std::fill(c.sums, c.sums + kRegisters, c.value(0)); }},
        {"bar_sync", [](const Call& c) { ptx::bar_sync(c[0], c[1]); }},
        {"bar_arrive", [](const Call& c) { ptx::bar_arrive(c[0], c[1]); }},
        {"cluster_rank", [](const Call& c) { c.result[0] = ptx::cluster_rank(); }},
        {"cluster_arrive_relaxed", [](const Call&) { ptx::cluster_arrive_relaxed(); }},
        {"cluster_wait", [](const Call&) { ptx::cluster_wait(); }},
        {"mbarrier_arrive_cluster",
         [](const Call& c) { ptx::mbarrier_arrive_cluster(ptx::map_shared(c.shared(0), c[1])); }},
        {"cp_async_16", [](const Call& c) { ptx::cp_async_16(c.shared(0), c.global + c[1], c[2]); }},
        {"cp_async_8", [](const Call& c) { ptx::cp_async_8(c.shared(0), c.global + c[1], c[2]); }},
        {"cp_async_4", [](const Call& c) { ptx::cp_async_4(c.shared(0), c.global + c[1], c[2]); }},
        {"cp_async_commit_group", [](const Call&) { ptx::cp_async_commit_group(); }},
        {"cp_async_wait_group<0>", [](const Call&) { ptx::cp_async_wait_group<0>(); }},
        {"cp_async_wait_group<2>", [](const Call&) { ptx::cp_async_wait_group<2>(); }},
        {"ldmatrix_x1", [](const Call& c) { load(c, ptx::ldmatrix_x1); }},
        {"ldmatrix_x2", [](const Call& c) { load(c, ptx::ldmatrix_x2); }},
        {"ldmatrix_x4", [](const Call& c) { load(c, ptx::ldmatrix_x4); }},
        {"ldmatrix_x1_trans", [](const Call& c) { load(c, ptx::ldmatrix_x1_trans); }},
        {"ldmatrix_x2_trans", [](const Call& c) { load(c, ptx::ldmatrix_x2_trans); }},
        {"ldmatrix_x4_trans", [](const Call& c) { load(c, ptx::ldmatrix_x4_trans); }},
        {"stmatrix_x4", [](const Call& c) { ptx::stmatrix_x4(c.shared(0), {c[1], c[2], c[3], c[4]}); }},
        {"mbarrier_init", [](const Call& c) { ptx::mbarrier_init(c.shared(0), c[1]); }},
        {"fence_mbarrier_init", [](const Call&) { ptx::fence_mbarrier_init(); }},
        {"mbarrier_arrive", [](const Call& c) { ptx::mbarrier_arrive(c.shared(0)); }},
        {"mbarrier_arrive_expect_tx", [](const Call& c) { ptx::mbarrier_arrive_expect_tx(c.shared(0), c[1]); }},
        {"mbarrier_wait", [](const Call& c) { ptx::mbarrier_wait(c.shared(0), c[1]); }},
        {"mma_m16n8k16<float16>", [](const Call& c) { multiply(c, ptx::mma_m16n8k16<float16>); }},
        {"mma_m16n8k16<bfloat16>", [](const Call& c) { multiply(c, ptx::mma_m16n8k16<bfloat16>); }},
        {"mma_m16n8k8_tf32", [](const Call& c) { multiply(c, ptx::mma_m16n8k8_tf32); }},
        {"to_float<float16>", [](const Call& c) { c.result[0] = __float_as_uint(ptx::to_float(float16{c.half(0)})); }},
        {"from_float<float16>", [](const Call& c) { c.result[0] = ptx::from_float<float16>(c.value(0)).bits; }},
        {"from_float<bfloat16>", [](const Call& c) { c.result[0] = ptx::from_float<bfloat16>(c.value(0)).bits; }},
        {"pack<float16>", [](const Call& c) { c.result[0] = ptx::pack<float16>(c.value(0), c.value(1)); }},
        {"pack<bfloat16>", [](const Call& c) { c.result[0] = ptx::pack<bfloat16>(c.value(0), c.value(1)); }},
        {"to_tf32", [](const Call& c) { c.result[0] = ptx::to_tf32(c.value(0)); }},
        {"prefetch_tensor_map", [](const Call& c) { ptx::prefetch_tensor_map(c.maps[c[0]]); }},
        {"tma_load_3d",
         [](const Call& c) {
             ptx::tma_load_3d(c.shared(0), c.maps[c[1]], c.shared(2), c.whole(3), c.whole(4), c.whole(5));
         }},
        {"tma_load_3d_multicast",
         [](const Call& c) {
             ptx::tma_load_3d_multicast(c.shared(0), c.maps[c[1]], c.shared(2), c.whole(3), c.whole(4), c.whole(5),
                                        c.half(6));
         }},
        {"tma_load_im2col",
         [](const Call& c) {
             ptx::tma_load_im2col(c.shared(0), c.maps[c[1]], c.shared(2), c.whole(3), c.whole(4), c.whole(5),
                                  c.whole(6), c.half(7), c.half(8));
         }},
        {"tma_store_3d",
         [](const Call& c) { ptx::tma_store_3d(c.maps[c[0]], c.shared(1), c.whole(2), c.whole(3), c.whole(4)); }},
        {"tma_commit_group", [](const Call&) { ptx::tma_commit_group(); }},
        {"tma_wait_group_read<0>", [](const Call&) { ptx::tma_wait_group_read<0>(); }},
        {"tma_wait_group_read<1>", [](const Call&) { ptx::tma_wait_group_read<1>(); }},
        {"fence_proxy_async", [](const Call&) { ptx::fence_proxy_async(); }},
        {"give_registers_back<40>", [](const Call&) { ptx::give_registers_back<40>(); }},
        {"take_registers<232>", [](const Call&) { ptx::take_registers<232>(); }},
        {"elect_one", [](const Call& c) { c.result[0] = ptx::elect_one(); }},
        {"wgmma_fence", [](const Call&) { ptx::wgmma_fence(); }},
        {"wgmma_commit_group", [](const Call&) { ptx::wgmma_commit_group(); }},
        {"wgmma_wait_group<0>", wait<0>},
        {"wgmma_wait_group<1>", wait<1>},
    };
    add_wgmma<float16>(all, "float16");
    add_wgmma<bfloat16>(all, "bfloat16");
    return all;
}

struct Script {
    const Wrapper* wrappers;
    const Word* numbers;  // of the wrappers, step after step
    const Step* steps;    // [step][thread of the cluster]
    std::size_t count, threads;
    const ptx::TensorMap* maps;
    unsigned char* global;
    Word* results;  // [step][thread of the cluster][kResults]
    float* sums;    // [thread of the cluster][kRegisters]
    unsigned char* shared;
    std::size_t shared_bytes;
};

__global__ void script_kernel(Script script) {
    auto* const memory = ptx::dynamic_shared_memory<unsigned char>();
    const std::size_t thread = blockIdx.x * blockDim.x + threadIdx.x;
    float* const sums = script.sums + thread * kRegisters;
    for (std::size_t step = 0; step < script.count; ++step) {
        const std::size_t at = step * script.threads + thread;
        if (script.steps[at].active == 0) continue;
        script.wrappers[script.numbers[step]].perform(
            {script.steps[at].operand, script.results + at * kResults, sums, memory, script.global, script.maps});
    }
    __syncthreads();
    if (threadIdx.x == 0) std::memcpy(script.shared + blockIdx.x * script.shared_bytes, memory, script.shared_bytes);
}

ptx::TensorMap read_map(unsigned char* global, const Word* words) {
    const auto word = [&](int i) { return static_cast<std::uint64_t>(words[i]); };
    const auto whole = [&](int i) { return static_cast<int>(words[i]); };
    const auto swizzle = static_cast<Swizzle>(words[1]);
    if (words[0] == 3) {
        return ptx::encode_tiled<3>(global, {word(2), word(3), word(4)}, {word(5), word(6)},
                                    {words[7], words[8], words[9]}, swizzle);
    }
    return ptx::encode_im2col(global, {word(2), word(3), word(4), word(5)}, {word(6), word(7), word(8)},
                              {whole(9), whole(10)}, {whole(11), whole(12)}, words[13], words[14],
                              {words[15], words[16]}, swizzle);
}

// Of the file: a header of six words, the maps of 17 each, global memory, and for each step a number and the threads'
// operands.
void perform(std::istream& file, std::ostream& into, const std::vector<Wrapper>& all) {
    Word header[6];
    if (!file.read(reinterpret_cast<char*>(header), sizeof header)) return;
    const auto [block_threads, blocks, shared_bytes, global_bytes, map_count, count] = header;
    const std::size_t threads = std::size_t{block_threads} * blocks;
    const auto read = [&](auto* data, std::size_t size) {
        file.read(reinterpret_cast<char*>(data), static_cast<std::streamsize>(size * sizeof *data));
    };
    const auto write = [&](const auto* data, std::size_t size) {
        into.write(reinterpret_cast<const char*>(data), static_cast<std::streamsize>(size * sizeof *data));
    };
    std::vector<Word> map_words(17 * map_count), numbers(count);
    std::vector<Step> steps(count * threads);
    emulator::GuardedMemory global(global_bytes);
    read(map_words.data(), map_words.size());
    read(global.data(), global_bytes);
    for (std::size_t step = 0; step < count; ++step) {
        read(&numbers[step], 1);
        read(&steps[step * threads], threads);
    }
    std::vector<ptx::TensorMap> maps;
    for (Word i = 0; i < map_count; ++i) maps.push_back(read_map(global.data(), &map_words[17 * i]));
    std::vector<Word> results(count * threads * kResults);
    std::vector<float> sums(threads * kRegisters);
    std::vector<unsigned char> shared(blocks * std::size_t{shared_bytes});
    ptx::launch_clusters("script", script_kernel, blocks, blocks, block_threads, shared_bytes, nullptr,
                         Script{all.data(), numbers.data(), steps.data(), count, threads, maps.data(), global.data(),
                                results.data(), sums.data(), shared.data(), shared_bytes});
    write(results.data(), results.size());
    write(sums.data(), sums.size());
    write(shared.data(), shared.size());
    write(global.data(), global_bytes);
    perform(file, into, all);
}

}  // namespace

int main(int argc, char** argv) {
    const std::vector<Wrapper> all = wrappers();
    if (argc < 3) {
        for (const Wrapper& wrapper : all) std::puts(wrapper.name.c_str());
        return 0;
    }
    std::ifstream file(argv[1], std::ios::binary);
    std::ofstream into(argv[2], std::ios::binary);
    try {
        perform(file, into, all);
    } catch (const std::exception& error) {
        std::printf("%s\n", error.what());
        return 1;
    }
    return 0;
}
