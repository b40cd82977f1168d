// wgmma, warp by warp: the four warps of a warpgroup meet nowhere, so that a barrier which is missing stays missing.
// Layouts: PTX ISA, "Asynchronous warpgroup level matrix instructions", register fragments and matrix descriptor.
//
// While products are in flight their registers are poison for the kernel; the emulator has their values. Products of a
// warp take effect in the order in which they were issued.
#include "warpgroup.h"

#include <algorithm>
#include <cstring>

#include "internal.h"
#include "memory.h"
#include "numbers.h"

namespace emulator {
namespace {

constexpr const char* kName = "wgmma.mma_async";
constexpr unsigned kRows = 16, kStepK = 16, kMostN = 256, kPerVector = 8;

// A shared-memory matrix descriptor.
struct Matrix {
    std::uint32_t start, leading, stride, width;  // bytes; the width is that of a swizzled row
    bool transposed;                              // rows run along M or N, not along K

    Matrix(std::uint64_t bits, bool transposed) : transposed(transposed) {
        const auto field = [bits](int at) { return static_cast<std::uint32_t>(bits >> at & 0x3fff) << 4; };
        constexpr std::uint32_t kWidths[] = {0, 128, 64, 32};
        start = field(0);
        leading = field(16);
        stride = field(32);
        width = kWidths[bits >> 62];
        if (width == 0) fail(std::string(kName) + ": a matrix without a swizzle, which is not modelled");
        if (bits >> 49 & 7) fail(std::string(kName) + ": a base offset, which is not modelled: align to the swizzle");
        if (bits & 0x3ff1c000c000c000u) fail(std::string(kName) + ": a descriptor with stray bits");
        // Without a base offset the swizzle's eight rows begin at a multiple of their size; a start inside the first
        // row is a step along K.
        const std::uint32_t pattern = 8 * width;
        if (start % pattern >= width || stride % pattern != 0 || (transposed && leading % pattern != 0)) {
            fail(std::string(kName) + ": rows of " + std::to_string(width) + " bytes that are not aligned to eight, " +
                 std::to_string(pattern) + ", want a base offset, which is not modelled");
        }
    }

    // Of eight values: along K, or along M or N.
    std::uint32_t vector(unsigned extent, unsigned k) const {
        std::uint32_t address = start;
        if (transposed) {
            const unsigned per_row = width / 2;
            address += extent / per_row * leading + extent % per_row * 2 + k % 8 * width + k / 8 * stride;
        } else {
            address += extent / 8 * stride + extent % 8 * width + k * 2;
        }
        return address ^ (address >> 7 & (width / 16 - 1)) << 4;
    }
};

template <float (*kConvert)(std::uint16_t)>
void load_vector(float (&values)[kPerVector], std::uint32_t address) {
    std::uint16_t bits[kPerVector];
    __builtin_memcpy(bits, check_async_read(address, sizeof bits, sizeof bits, kName), sizeof bits);
    for (unsigned i = 0; i < kPerVector; ++i) values[i] = kConvert(bits[i]);
}

// Calls visit(extent, k, value) for extent in [first, first + count), a multiple of 8, and all of K.
template <float (*kConvert)(std::uint16_t), typename Visit>
void load_matrix(const Matrix& matrix, unsigned first, unsigned count, Visit&& visit) {
    float values[kPerVector];
    const unsigned extent_step = matrix.transposed ? kPerVector : 1, k_step = matrix.transposed ? 1 : kPerVector;
    for (unsigned extent = 0; extent < count; extent += extent_step) {
        for (unsigned k = 0; k < kStepK; k += k_step) {
            load_vector<kConvert>(values, matrix.vector(first + extent, k));
            for (unsigned i = 0; i < kPerVector; ++i) {
                visit(extent + (matrix.transposed ? i : 0), k + (matrix.transposed ? 0 : i), values[i]);
            }
        }
    }
}

typedef float EightOfN __attribute__((vector_size(32)));

template <float (*kConvert)(std::uint16_t)>
void multiply(const Warp& warp, const Product& product) {
    float a[kRows][kStepK];
    union {
        EightOfN vector[kMostN / 8][kStepK];
        float value[kMostN / 8][kStepK][8];
    } b;
    load_matrix<kConvert>({product.operands.a, product.operands.transposed_a}, warp.index % 4 * kRows, kRows,
                          [&](unsigned m, unsigned k, float value) { a[m][k] = value; });
    load_matrix<kConvert>({product.operands.b, product.operands.transposed_b}, 0, product.n,
                          [&](unsigned n, unsigned k, float value) { b.value[n / 8][k][n % 8] = value; });
    // Register 4 j + 2 half + odd of lane 4 g + t is m = g + 8 half, n = 8 j + 2 t + odd.
    Accumulators& d = *product.accumulators;
    for (unsigned j = 0; j < product.n / 8; ++j) {
        for (unsigned m = 0; m < kRows; ++m) {
            union {
                EightOfN vector;
                float value[8];
            } sum;
            const auto registers = [&](unsigned t) {
                return d.values.data() + (4 * (m % 8) + t) * d.count + 4 * j + 2 * (m / 8);
            };
            for (unsigned n = 0; n < 8; ++n) sum.value[n] = product.accumulate ? registers(n / 2)[n % 2] : 0.0f;
            for (unsigned k = 0; k < kStepK; ++k) sum.vector += a[m][k] * b.vector[j][k];
            for (unsigned n = 0; n < 8; ++n) registers(n / 2)[n % 2] = sum.value[n];
        }
    }
}

void make(Warp& warp, const Product& product) {
    if (product.element == Element::bf16) {
        multiply<float_from_bf16>(warp, product);
    } else {
        multiply<float_from_fp16>(warp, product);
    }
    Accumulators& d = *product.accumulators;
    if (--d.in_flight > 0) return;
    for (unsigned lane = 0; lane < kLanes; ++lane) {
        std::memcpy(d.of[lane], d.values.data() + lane * d.count, d.count * sizeof(float));
    }
    d.fence = warp.warpgroup.fences;
}

void make_up_to(Warp& warp, std::uint64_t end_group) {
    auto& products = warp.warpgroup.products;
    const auto made = std::find_if(products.begin(), products.end(),
                                   [=](const Product& product) { return product.group >= end_group; });
    for (auto product = products.begin(); product != made; ++product) make(warp, *product);
    products.erase(products.begin(), made);
}

struct Issue {
    float* d;
    std::uint64_t a, b;
    unsigned n;
    unsigned char element, accumulate, transposed_a, transposed_b;
};
static_assert(sizeof(Issue) <= kDepositBytes, "a lane's operands are what it deposits");

bool same(const WarpgroupOperands& x, const WarpgroupOperands& y) { return x.a == y.a && x.b == y.b; }

Warp* first_warp(const Warp& warp) { return &warp.slot->warps[warp.index / 4 * 4]; }

bool others_have_issued(const Warp& warp, std::uint64_t products) {
    const Warp* const first = first_warp(warp);
    return std::all_of(first, first + 4, [=](const Warp& one) { return one.warpgroup.issued_in_all >= products; });
}

// All four warps multiply the same matrices, in the same order.
void check_with_the_others(Warp& warp, const WarpgroupOperands& operands) {
    Slot& slot = *warp.slot;
    if ((warp.index / 4 + 1) * 4 * kLanes > slot.block_threads)
        fail(std::string(kName) + ": its warpgroup has fewer than four warps");
    auto& trail = slot.trails[warp.index / 4];
    WarpgroupPart& part = warp.warpgroup;
    if (part.issued < trail.size() && !same(trail[part.issued], operands)) {
        fail(std::string(kName) + ": another warp of its warpgroup has other descriptors");
    }
    if (part.issued == trail.size()) trail.push_back(operands);
    ++part.issued;
    ++part.issued_in_all;
    Warp* const first = first_warp(warp);
    for (Warp* one = first; one < first + 4; ++one) {
        if (one->warpgroup.waits != 0 && others_have_issued(*one, one->warpgroup.awaited)) {
            wake(*one, one->warpgroup.waits);
            one->warpgroup.waits = 0;
        }
    }
    if (!std::all_of(first, first + 4, [&](const Warp& one) { return one.warpgroup.issued == trail.size(); })) return;
    for (Warp* one = first; one < first + 4; ++one) one->warpgroup.issued = 0;
    trail.clear();
}

bool is_poison(const float* registers, std::size_t bytes, unsigned char poison) {
    const auto* const first = reinterpret_cast<const unsigned char*>(registers);
    return *first == poison && std::memcmp(first, first + 1, bytes - 1) == 0;
}

// The registers of a thread as they were at its last wgmma.fence; null where they are not on its stack.
const unsigned char* at_fence(const Thread& thread, const float* registers, std::size_t bytes) {
    const auto below_end = thread.fiber.stack_top() - reinterpret_cast<const unsigned char*>(registers);
    const auto copied = static_cast<std::ptrdiff_t>(thread.stack_at_fence.size());
    if (below_end < static_cast<std::ptrdiff_t>(bytes) || below_end > copied) return nullptr;
    return thread.stack_at_fence.data() + (copied - below_end);
}

// The kernel may not have touched the registers since the fence, nor while products that are in flight have them.
void check_registers(const Warp& warp, const Accumulators& d, unsigned char poison) {
    const bool known = d.fence == warp.warpgroup.fences;
    const std::size_t bytes = d.count * sizeof(float);
    for (unsigned lane = 0; lane < kLanes; ++lane) {
        bool same = true;
        if (d.in_flight > 0) {
            same = is_poison(d.of[lane], bytes, poison);
        } else if (known) {
            same = std::memcmp(d.of[lane], d.values.data() + lane * d.count, bytes) == 0;
        } else if (const unsigned char* before = at_fence(*warp.thread[lane], d.of[lane], bytes)) {
            same = std::memcmp(d.of[lane], before, bytes) == 0;
        }
        if (same) continue;
        fail(std::string(kName) + ": lane " + std::to_string(lane) + " wrote to registers that it accumulates in " +
             (d.in_flight > 0 ? "while products have them" : "since the last wgmma.fence"));
    }
}

Accumulators& take_accumulators(Warp& warp, const Deposits& deposits, unsigned count, unsigned char poison) {
    WarpgroupPart& part = warp.warpgroup;
    float* of[kLanes];
    for (unsigned lane = 0; lane < kLanes; ++lane) std::memcpy(&of[lane], deposits.of[lane], sizeof of[lane]);
    Accumulators *same = nullptr, *unused = nullptr;
    for (auto& one : part.accumulators) {
        if (one->of[0] == of[0]) same = one.get();
        if (one->in_flight == 0 && one->fence != part.fences) unused = one.get();
    }
    if (same == nullptr && unused == nullptr) {
        part.accumulators.push_back(std::make_unique<Accumulators>());
        unused = part.accumulators.back().get();
    }
    Accumulators& d = same != nullptr ? *same : *unused;
    if (d.count != count || std::memcmp(d.of, of, sizeof of) != 0) {
        if (d.in_flight > 0) fail(std::string(kName) + ": other products of another shape are in flight there");
        d.fence = 0;  // what they held at the fence is on the stacks alone
        std::memcpy(d.of, of, sizeof of);
        d.count = count;
        d.values.resize(kLanes * count);
    }
    check_registers(warp, d, poison);
    d.fence = part.fences;
    if (d.in_flight > 0) return d;
    for (unsigned lane = 0; lane < kLanes; ++lane) {
        std::memcpy(d.values.data() + lane * count, of[lane], count * sizeof(float));
        std::memset(of[lane], poison, count * sizeof(float));
    }
    return d;
}

void tell_race_detector(Warp& warp, const Product& product) {
    WarpgroupPart& part = warp.warpgroup;
    const Matrix a(product.operands.a, product.operands.transposed_a);
    const Matrix b(product.operands.b, product.operands.transposed_b);
    release_to_async_proxy(warp, &part.issue_edge);
    race::switch_to(part.race_thread);
    race::acquire(&part.issue_edge);
    const auto read = [&](const Matrix& matrix, unsigned first, unsigned count) {
        const unsigned extent_step = matrix.transposed ? kPerVector : 1, k_step = matrix.transposed ? 1 : kPerVector;
        for (unsigned extent = 0; extent < count; extent += extent_step) {
            for (unsigned k = 0; k < kStepK; k += k_step) {
                race::read(shared_pointer(matrix.vector(first + extent, k), 16, 16, kName), 16);
            }
        }
    };
    read(a, warp.index % 4 * kRows, kRows);
    read(b, 0, product.n);
    race::release(&part.group_edges[product.group % sizeof part.group_edges]);
    race::switch_to(this_thread().fiber.race_thread());
}

// Runs once for the warp, in the last of its lanes to come.
void issue(Deposits& deposits, Statistics& statistics) {
    const race::Quiet quiet;
    Warp& warp = *this_thread().warp;
    Slot& slot = *warp.slot;
    WarpgroupPart& part = warp.warpgroup;
    Issue first, other;
    std::memcpy(&first, deposits.of[0], sizeof first);
    for (unsigned lane = 1; lane < kLanes; ++lane) {
        std::memcpy(&other, deposits.of[lane], sizeof other);
        if (std::memcmp(&first.a, &other.a, sizeof first - offsetof(Issue, a)) != 0) {
            fail(std::string(kName) + ": lanes 0 and " + std::to_string(lane) + " have other descriptors");
        }
    }
    if (!part.fenced) {
        fail(std::string(kName) + ": no wgmma.fence since the kernel's start or the last wgmma.commit_group");
    }
    ++statistics.wgmma;
    const WarpgroupOperands operands = {first.a, first.b, first.transposed_a != 0, first.transposed_b != 0};
    check_with_the_others(warp, operands);
    Accumulators& accumulators = take_accumulators(warp, deposits, first.n / 2, slot.poison);
    ++accumulators.in_flight;
    const Product product = {
        operands, static_cast<Element>(first.element), first.n, first.accumulate != 0, &accumulators, part.open_group};
    if (race::kEnabled) tell_race_detector(warp, product);
    part.products.push_back(product);
    if (at_once(slot, slot.products)) make_up_to(warp, part.open_group + 1);
}

// Its stack holds the registers. A loop over words: to AddressSanitizer, memcpy would read what lies between variables.
__attribute__((no_sanitize_address)) void keep_stack(Thread& self) {
    const race::Quiet quiet;
    typedef unsigned Word __attribute__((vector_size(16), may_alias));
    const auto* const end = reinterpret_cast<const volatile Word*>(self.fiber.stack_top());
    const auto* const now = static_cast<const volatile Word*>(__builtin_frame_address(0));
    self.stack_at_fence.resize((end - now) * sizeof(Word));
    auto* into = reinterpret_cast<Word*>(self.stack_at_fence.data());
    for (const volatile Word* word = now; word < end; ++word) *into++ = *word;
}

// Runs once for the warp: a product is that of all four, and ends when the last of them has come to it.
void wait_together(Deposits& deposits, Statistics&) {
    Thread& self = this_thread();
    WarpgroupPart& part = self.warp->warpgroup;
    unsigned newest_still_pending;
    std::memcpy(&newest_still_pending, deposits.of[self.lane], sizeof newest_still_pending);
    if (part.open_group <= newest_still_pending) return;
    const std::uint64_t pending_from = part.open_group - newest_still_pending;
    part.awaited = part.issued_by[pending_from - 1];
    while (!others_have_issued(*self.warp, part.awaited)) {
        part.waits = 1u << self.lane;
        park({"wgmma.wait_group"});
    }
    const race::Quiet quiet;
    make_up_to(*self.warp, pending_from);
}

void register_pool_changed(Slot& slot) {
    for (unsigned w = 0; w < slot.block_threads / kLanes; ++w) {
        wake(slot.warps[w], slot.warps[w].waits_for_registers);
        slot.warps[w].waits_for_registers = 0;
    }
}

}  // namespace

void warpgroup_multiply(Element element, unsigned n, float* d, const WarpgroupOperands& operands, bool accumulate) {
    const Issue mine = {d,
                        operands.a,
                        operands.b,
                        n,
                        static_cast<unsigned char>(element),
                        accumulate,
                        operands.transposed_a,
                        operands.transposed_b};
    meet_whole_warp({kName}, &mine, sizeof mine, issue);
}

void warpgroup_fence() {
    keep_stack(this_thread());
    meet_whole_warp({"wgmma.fence"}, nullptr, 0, [](Deposits&, Statistics&) {
        WarpgroupPart& part = this_thread().warp->warpgroup;
        part.fenced = true;
        ++part.fences;
    });
}

void warpgroup_commit_group() {
    meet_whole_warp({"wgmma.commit_group"}, nullptr, 0, [](Deposits&, Statistics&) {
        const race::Quiet quiet;
        WarpgroupPart& part = this_thread().warp->warpgroup;
        ++part.open_group;
        part.issued_by.push_back(part.issued_in_all);
        part.fenced = false;
    });
}

void warpgroup_wait_group(unsigned newest_still_pending) {
    Thread& self = this_thread();
    WarpgroupPart& part = self.warp->warpgroup;
    meet_whole_warp({"wgmma.wait_group"}, &newest_still_pending, sizeof newest_still_pending, wait_together);
    if (part.open_group <= newest_still_pending) return;
    const std::uint64_t pending_from = part.open_group - newest_still_pending;
    char* edge = &part.group_edges[(pending_from - 1) % sizeof part.group_edges];
    race::acquire(edge);
    acquire_from_async_proxy(*self.warp, edge);
}

void set_max_registers(unsigned count, bool increase) {
    const char* const name = increase ? "setmaxnreg.inc" : "setmaxnreg.dec";
    Warp& warp = *this_thread().warp;
    Slot& slot = *warp.slot;
    if (count < 24 || count > 256 || count % 8 != 0) {
        fail(std::string(name) + ": a multiple of 8 from 24 to 256 is wanted, not " + std::to_string(count));
    }
    const unsigned at_launch = std::min(65536 / slot.block_threads / 8 * 8, 256u);
    const auto taken = [&] {
        unsigned sum = 0;
        for (unsigned w = 0; w < slot.block_threads / kLanes; ++w) {
            const unsigned own = slot.warps[w].warpgroup.registers;
            sum += own == 0 ? at_launch : own;
        }
        return sum * kLanes;
    };
    meet_whole_warp({name}, nullptr, 0, nullptr);
    unsigned& own = warp.warpgroup.registers;
    if (own == count) return;  // another lane has seen to it
    const unsigned before = own == 0 ? at_launch : own;
    if (increase ? count < before : count > before) {
        fail(std::string(name) + ": from " + std::to_string(before) + " to " + std::to_string(count) + " registers");
    }
    while (own != count && taken() + (count - before) * kLanes > at_launch * slot.block_threads && increase) {
        warp.waits_for_registers |= 1u << this_thread().lane;
        park({name});
    }
    own = count;
    if (!increase) register_pool_changed(slot);
}

bool elect_one() {
    meet_whole_warp({"elect.sync"}, nullptr, 0, nullptr);
    return this_thread().lane == (this_thread().warp->slot->descending ? kLanes - 1 : 0);  // which, is not specified
}

void prepare_warpgroup(Warp& warp) {
    WarpgroupPart& part = warp.warpgroup;
    part.products.clear();
    for (auto& one : part.accumulators) one->in_flight = 0;
    for (auto& one : part.accumulators) one->fence = 0;
    part.open_group = part.issued = part.issued_in_all = part.fences = 0;
    part.issued_by.clear();
    part.waits = 0;
    part.fenced = false;
    part.registers = 0;
    warp.waits_for_registers = 0;
    if (!race::kEnabled) return;
    if (part.race_thread == nullptr) {
        part.race_thread = race::create_thread();
        part.proxy_race_thread = race::create_thread();
        race::name_thread(part.race_thread, "a product of warp " + std::to_string(warp.index));
    }
    race::switch_to(part.proxy_race_thread);
    race::acquire(&start_edge);
    race::acquire(&warp.slot->use_edge.object[(warp.slot->use - 1) & 1]);
    race::switch_to(warp.slot->worker->host.race_thread());
}

void check_warpgroups_are_level(const Slot& slot) {
    for (const auto& trail : slot.trails) {
        if (!trail.empty()) fail(std::string(kName) + ": the warps of a warpgroup executed different numbers of them");
    }
}

}  // namespace emulator
