// What each wrapper of csrc/cuda/ptx does, and each CUDA function that kernels use beside them, against plain scalar
// code. Runs on the emulator and, compiled by nvcc, on a GPU: the two must agree.
#include <cmath>
#include <limits>

#include "../../cuda/ptx/barrier.cuh"
#include "../../cuda/ptx/cp_async.cuh"
#include "../../cuda/ptx/ldmatrix.cuh"
#include "../../cuda/ptx/mma.cuh"
#include "../../cuda/ptx/numbers.cuh"
#include "harness.h"

namespace {

using harness::DeviceArray;
using harness::expect_close;
using harness::expect_equal;
using ptx::bfloat16;
using ptx::float16;

std::vector<unsigned> counting(std::size_t count) {
    std::vector<unsigned> values(count);
    for (std::size_t i = 0; i < count; ++i) values[i] = static_cast<unsigned>(i);
    return values;
}

// ---- ldmatrix: element (row, column) of matrix j is 64 j + 8 row + column

template <int kMatrices>
__device__ void load(std::uint32_t (&registers)[kMatrices], std::uint32_t address, bool transposed);

template <>
__device__ void load<1>(std::uint32_t (&registers)[1], std::uint32_t address, bool transposed) {
    transposed ? ptx::ldmatrix_x1_trans(registers, address) : ptx::ldmatrix_x1(registers, address);
}
template <>
__device__ void load<2>(std::uint32_t (&registers)[2], std::uint32_t address, bool transposed) {
    transposed ? ptx::ldmatrix_x2_trans(registers, address) : ptx::ldmatrix_x2(registers, address);
}
template <>
__device__ void load<4>(std::uint32_t (&registers)[4], std::uint32_t address, bool transposed) {
    transposed ? ptx::ldmatrix_x4_trans(registers, address) : ptx::ldmatrix_x4(registers, address);
}

template <int kMatrices>
__global__ void ldmatrix_kernel(unsigned* output, bool transposed) {
    auto* matrices = ptx::dynamic_shared_memory<std::uint16_t>();
    for (unsigned i = threadIdx.x; i < 64 * kMatrices; i += 32) matrices[i] = static_cast<std::uint16_t>(i);
    __syncthreads();
    std::uint32_t registers[kMatrices];
    // Lanes beyond the last matrix give an address that lies outside: it must not be used.
    const std::uint32_t base = ptx::shared_address(matrices);
    load<kMatrices>(registers, threadIdx.x < 8 * kMatrices ? base + 16 * threadIdx.x : base + (1u << 20), transposed);
    for (int j = 0; j < kMatrices; ++j) output[32 * j + threadIdx.x] = registers[j];
}

template <int kMatrices>
void test_ldmatrix_of(bool transposed) {
    DeviceArray<unsigned> output(std::vector<unsigned>(32 * kMatrices));
    ptx::launch("ldmatrix", ldmatrix_kernel<kMatrices>, 1, 32, 128 * kMatrices, nullptr, output.data(), transposed);
    std::vector<unsigned> wanted;
    for (unsigned j = 0; j < kMatrices; ++j) {
        for (unsigned lane = 0; lane < 32; ++lane) {
            const unsigned g = lane / 4, t = lane % 4;
            const unsigned low = 64 * j + (transposed ? 8 * (2 * t) + g : 8 * g + 2 * t);
            const unsigned high = 64 * j + (transposed ? 8 * (2 * t + 1) + g : 8 * g + 2 * t + 1);
            wanted.push_back(high << 16 | low);
        }
    }
    expect_equal(output.download(), wanted, "register");
}

void test_ldmatrix() {
    test_ldmatrix_of<1>(false);
    test_ldmatrix_of<2>(false);
    test_ldmatrix_of<4>(false);
}

void test_ldmatrix_trans() {
    test_ldmatrix_of<1>(true);
    test_ldmatrix_of<2>(true);
    test_ldmatrix_of<4>(true);
}

// ---- mma: a is 16xK, b is Kx8, c and d are 16x8, row-major in memory; fragments by the tables in mma.cuh

template <typename T>
__global__ void mma_k16_kernel(const T* a, const T* b, const float* c, float* d) {
    const unsigned g = threadIdx.x / 4, t = threadIdx.x % 4;
    const auto pair = [](T low, T high) { return static_cast<std::uint32_t>(high.bits) << 16 | low.bits; };
    std::uint32_t a_registers[4], b_registers[2];
    for (unsigned r = 0; r < 4; ++r) {
        const T* at = a + 16 * (g + 8 * (r % 2)) + 2 * t + 8 * (r / 2);
        a_registers[r] = pair(at[0], at[1]);
    }
    for (unsigned r = 0; r < 2; ++r) {
        const T* at = b + 8 * (2 * t + 8 * r) + g;
        b_registers[r] = pair(at[0], at[8]);
    }
    float sum[4];
    for (unsigned r = 0; r < 4; ++r) sum[r] = c[8 * (g + 8 * (r / 2)) + 2 * t + r % 2];
    ptx::mma_m16n8k16<T>(sum, a_registers, b_registers);
    for (unsigned r = 0; r < 4; ++r) d[8 * (g + 8 * (r / 2)) + 2 * t + r % 2] = sum[r];
}

__global__ void mma_tf32_kernel(const float* a, const float* b, const float* c, float* d) {
    const unsigned g = threadIdx.x / 4, t = threadIdx.x % 4;
    std::uint32_t a_registers[4], b_registers[2];
    for (unsigned r = 0; r < 4; ++r) a_registers[r] = ptx::to_tf32(a[8 * (g + 8 * (r % 2)) + t + 4 * (r / 2)]);
    for (unsigned r = 0; r < 2; ++r) b_registers[r] = ptx::to_tf32(b[8 * (t + 4 * r) + g]);
    float sum[4];
    for (unsigned r = 0; r < 4; ++r) sum[r] = c[8 * (g + 8 * (r / 2)) + 2 * t + r % 2];
    ptx::mma_m16n8k8_tf32(sum, a_registers, b_registers);
    for (unsigned r = 0; r < 4; ++r) d[8 * (g + 8 * (r / 2)) + 2 * t + r % 2] = sum[r];
}

std::vector<double> product(const std::vector<float>& a, const std::vector<float>& b, const std::vector<float>& c,
                            unsigned step_k) {
    std::vector<double> d(c.begin(), c.end());
    for (unsigned m = 0; m < 16; ++m) {
        for (unsigned n = 0; n < 8; ++n) {
            for (unsigned k = 0; k < step_k; ++k) d[8 * m + n] += double{a[step_k * m + k]} * b[8 * k + n];
        }
    }
    return d;
}

// Multiples of 1/64 up to 1 are exact in fp16, bf16 and tf32: only the sums are rounded.
std::vector<float> exact_floats(std::size_t count, unsigned seed) {
    std::vector<float> values = harness::random_floats(count, seed);
    for (float& value : values) value = std::nearbyint(value * 64) / 64;
    return values;
}

template <typename T>
std::vector<T> top_bits(const std::vector<float>& values);

template <>
std::vector<bfloat16> top_bits(const std::vector<float>& values) {
    std::vector<bfloat16> result;
    for (const float value : values) {
        std::uint32_t bits;
        std::memcpy(&bits, &value, 4);
        result.push_back({static_cast<std::uint16_t>(bits >> 16)});
    }
    return result;
}

template <>
std::vector<float16> top_bits(const std::vector<float>& values) {
    std::vector<float16> result;
    for (const float value : values) {
        std::uint32_t bits;
        std::memcpy(&bits, &value, 4);
        const std::uint32_t magnitude = bits & 0x7fffffff;  // normal in fp16, or zero
        result.push_back(
            {static_cast<std::uint16_t>((bits >> 16 & 0x8000u) | (magnitude ? magnitude - 0x38000000u : 0) >> 13)});
    }
    return result;
}

template <typename T>
void test_mma_k16() {
    const auto a = exact_floats(16 * 16, 1), b = exact_floats(16 * 8, 2), c = exact_floats(16 * 8, 3);
    DeviceArray<T> device_a(top_bits<T>(a)), device_b(top_bits<T>(b));
    DeviceArray<float> device_c(c), d(std::vector<float>(16 * 8));
    ptx::launch("mma", mma_k16_kernel<T>, 1, 32, 0, nullptr, device_a.data(), device_b.data(), device_c.data(),
                d.data());
    expect_close(d.download(), product(a, b, c, 16), 1e-5, "d");
}

void test_mma_tf32() {
    const auto a = exact_floats(16 * 8, 1), b = exact_floats(8 * 8, 2), c = exact_floats(16 * 8, 3);
    DeviceArray<float> device_a(a), device_b(b), device_c(c), d(std::vector<float>(16 * 8));
    ptx::launch("mma", mma_tf32_kernel, 1, 32, 0, nullptr, device_a.data(), device_b.data(), device_c.data(), d.data());
    expect_close(d.download(), product(a, b, c, 8), 1e-5, "d");
}

// ---- cp.async: each thread copies one item, of which the first threadIdx % (size + 1) bytes come from global memory

template <int kBytes>
__global__ void cp_async_kernel(const unsigned char* input, unsigned char* output) {
    auto* bytes = ptx::dynamic_shared_memory<unsigned char>();
    const unsigned own = kBytes * threadIdx.x;
    const std::uint32_t address = ptx::shared_address(bytes + own);
    const std::uint32_t source_bytes = threadIdx.x % (kBytes + 1);
    if constexpr (kBytes == 16) ptx::cp_async_16(address, input + own, source_bytes);
    if constexpr (kBytes == 8) ptx::cp_async_8(address, input + own, source_bytes);
    if constexpr (kBytes == 4) ptx::cp_async_4(address, input + own, source_bytes);
    ptx::cp_async_commit_group();
    ptx::cp_async_wait_group<0>();
    __syncthreads();
    const unsigned others = kBytes * (blockDim.x - 1 - threadIdx.x);
    for (unsigned i = 0; i < kBytes; ++i) output[others + i] = bytes[others + i];
}

template <int kBytes>
void test_cp_async_of() {
    constexpr unsigned kThreads = 64;
    std::vector<unsigned char> input(kBytes * kThreads), wanted(kBytes * kThreads);
    for (unsigned i = 0; i < input.size(); ++i) {
        input[i] = static_cast<unsigned char>(i % 251 + 1);
        if (i % kBytes < i / kBytes % (kBytes + 1)) wanted[i] = input[i];
    }
    DeviceArray<unsigned char> device_input(input), output(std::vector<unsigned char>(input.size(), 0xee));
    ptx::launch("cp_async", cp_async_kernel<kBytes>, 1, kThreads, kBytes * kThreads, nullptr, device_input.data(),
                output.data());
    expect_equal(output.download(), wanted, "byte");
}

void test_cp_async() {
    test_cp_async_of<16>();
    test_cp_async_of<8>();
    test_cp_async_of<4>();
}

// Groups complete in order: three groups, two waits. An empty group counts.
__global__ void cp_async_groups_kernel(const unsigned* input, unsigned* output) {
    auto* words = ptx::dynamic_shared_memory<unsigned>();
    const std::uint32_t address = ptx::shared_address(words + 3 * threadIdx.x);
    const unsigned first = 3 * threadIdx.x;
    ptx::cp_async_4(address, input + first);
    ptx::cp_async_4(address + 4, input + first + 1);
    ptx::cp_async_commit_group();
    ptx::cp_async_commit_group();
    ptx::cp_async_4(address + 8, input + first + 2);
    ptx::cp_async_commit_group();
    ptx::cp_async_wait_group<2>();
    output[first] = words[first];
    output[first + 1] = words[first + 1];
    ptx::cp_async_wait_group<0>();
    output[first + 2] = words[first + 2];
}

void test_cp_async_groups() {
    const std::vector<unsigned> input = counting(3 * 32);
    DeviceArray<unsigned> device_input(input), output(std::vector<unsigned>(input.size(), 99u));
    ptx::launch("cp_async_groups", cp_async_groups_kernel, 1, 32, 3 * 32 * 4, nullptr, device_input.data(),
                output.data());
    expect_equal(output.download(), input, "word");
}

// ---- named barriers: warp 0 produces and only arrives; warp 1 consumes. Warps 2 and 3 exchange at another barrier.

__global__ void barrier_kernel(unsigned* output) {
    auto* words = ptx::dynamic_shared_memory<unsigned>();
    const unsigned warp = threadIdx.x / 32;
    if (warp == 0) {
        words[threadIdx.x] = 100 + threadIdx.x;
        ptx::bar_arrive(1, 64);
    } else if (warp == 1) {
        ptx::bar_sync(1, 64);
        output[threadIdx.x] = words[63 - threadIdx.x];
    } else {
        for (unsigned round = 0; round < 3; ++round) {
            words[threadIdx.x] = threadIdx.x + round;
            ptx::bar_sync(2, 64);
            output[threadIdx.x] = words[threadIdx.x ^ 32];
            ptx::bar_sync(2, 64);
        }
    }
}

void test_barriers() {
    DeviceArray<unsigned> output(std::vector<unsigned>(128));
    ptx::launch("barriers", barrier_kernel, 1, 128, 128 * 4, nullptr, output.data());
    std::vector<unsigned> wanted(128);
    for (unsigned i = 32; i < 64; ++i) wanted[i] = 100 + 63 - i;
    for (unsigned i = 64; i < 128; ++i) wanted[i] = (i ^ 32) + 2;
    expect_equal(output.download(), wanted, "word");
}

// ---- numbers

__global__ void numbers_kernel(const float* input, unsigned* output) {
    const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    const float first = input[2 * i], second = input[2 * i + 1];
    output[5 * i] = ptx::from_float<float16>(first).bits;
    output[5 * i + 1] = ptx::from_float<bfloat16>(first).bits;
    output[5 * i + 2] = ptx::pack<float16>(first, second);
    output[5 * i + 3] = ptx::pack<bfloat16>(first, second);
    output[5 * i + 4] = ptx::to_tf32(first);
}

// Rounds to `digits` binary digits after the first, exponents from `lowest` up; ties to even, or away from zero.
float rounded(float value, int digits, int lowest, float largest, bool ties_away) {
    if (value == 0 || !std::isfinite(value)) return value;
    int exponent;
    std::frexp(value, &exponent);
    const double unit = std::ldexp(1.0, std::max(exponent - 1, lowest) - digits);
    const double scaled = value / unit;
    const double result = (ties_away ? std::round(scaled) : std::nearbyint(scaled)) * unit;
    if (std::fabs(result) > largest) return std::copysign(std::numeric_limits<float>::infinity(), value);
    return static_cast<float>(result);
}

void test_numbers() {
    std::vector<float> input;
    std::mt19937 engine(7);
    for (int i = 0; i < 4096 - 16; ++i) {
        std::uint32_t bits = engine();
        if (i % 2 == 0) bits = (bits & 0x83ffffffu) + 0x34000000u;  // where fp16 has its range
        if (i % 8 == 0) bits &= 0xfffff000u;                        // ties of fp16
        if (i % 8 == 1) bits = (bits & 0xffff0000u) | 0x8000u;      // ties of bf16
        float value;
        std::memcpy(&value, &bits, 4);
        input.push_back(std::isnan(value) ? 1.0f : value);
    }
    for (const float value : {0.0f, 65504.0f, 65519.0f, 65520.0f, 5.9604645e-8f, 2.9802322e-8f, 3.0e-8f, INFINITY}) {
        input.push_back(value);
        input.push_back(-value);
    }
    const unsigned pairs = static_cast<unsigned>(input.size() / 2);
    DeviceArray<float> device_input(input);
    DeviceArray<unsigned> output(std::vector<unsigned>(5 * pairs));
    ptx::launch("numbers", numbers_kernel, pairs / 64, 64, 0, nullptr, device_input.data(), output.data());
    const std::vector<unsigned> got = output.download();
    const auto fp16_value = [](unsigned bits) {
        const int exponent = static_cast<int>(bits >> 10 & 31);
        const double fraction = bits & 0x3ff;
        const double magnitude = exponent == 31  ? INFINITY
                                 : exponent == 0 ? std::ldexp(fraction, -24)
                                                 : std::ldexp(1024 + fraction, exponent - 25);
        return static_cast<float>(bits & 0x8000 ? -magnitude : magnitude);
    };
    const auto bf16_value = [](unsigned bits) {
        bits <<= 16;
        float value;
        std::memcpy(&value, &bits, 4);
        return value;
    };
    std::vector<float> values, wanted;
    for (unsigned i = 0; i < pairs; ++i) {
        const float first = input[2 * i], second = input[2 * i + 1];
        const auto fp16 = [](float x) { return rounded(x, 10, -14, 65504.0f, false); };
        const auto bf16 = [](float x) { return rounded(x, 7, -126, 3.3895314e38f, false); };
        values.insert(values.end(), {fp16_value(got[5 * i]), bf16_value(got[5 * i + 1]),
                                     fp16_value(got[5 * i + 2] & 0xffff), fp16_value(got[5 * i + 2] >> 16),
                                     bf16_value(got[5 * i + 3] & 0xffff), bf16_value(got[5 * i + 3] >> 16)});
        wanted.insert(wanted.end(), {fp16(first), bf16(first), fp16(first), fp16(second), bf16(first), bf16(second)});
        float tf32;
        std::memcpy(&tf32, &got[5 * i + 4], 4);
        // What tf32 does to subnormal numbers is left open.
        if (std::fabs(first) >= 1.2e-38f) {
            values.push_back(tf32);
            wanted.push_back(rounded(first, 10, -126, 3.4e38f, true));
        }
    }
    expect_equal(values, wanted, "number");
}

// Every fp16 and bf16 value through float and back; NaN stays NaN.
__global__ void round_trip_kernel(unsigned* wrong) {
    const std::uint16_t bits = static_cast<std::uint16_t>(blockIdx.x * blockDim.x + threadIdx.x);
    const float half = ptx::to_float(float16{bits}), brain = ptx::to_float(bfloat16{bits});
    const float2 pair = ptx::unpack<bfloat16>(static_cast<std::uint32_t>(bits) << 16 | 0x3f80u);
    const bool half_is_nan = (bits & 0x7fff) > 0x7c00, brain_is_nan = (bits & 0x7fff) > 0x7f80;
    const bool half_wrong = half_is_nan ? half == half : ptx::from_float<float16>(half).bits != bits;
    const bool brain_wrong = brain_is_nan ? brain == brain : ptx::from_float<bfloat16>(brain).bits != bits;
    const bool pair_wrong = pair.x != 1.0f || __float_as_uint(pair.y) != __float_as_uint(brain);
    wrong[blockIdx.x * blockDim.x + threadIdx.x] = half_wrong || brain_wrong || pair_wrong;
}

void test_round_trip() {
    DeviceArray<unsigned> wrong(std::vector<unsigned>(65536, 7u));
    ptx::launch("round_trip", round_trip_kernel, 256, 256, 0, nullptr, wrong.data());
    expect_equal(wrong.download(), std::vector<unsigned>(65536, 0u), "wrong");
}

// ---- shuffles, votes, bits, atomics

__global__ void warp_kernel(unsigned* output) {
    const unsigned lane = threadIdx.x;
    output[lane] = __shfl_sync(0xffffffffu, lane, 5);
    output[32 + lane] = __shfl_sync(0xffffffffu, lane, 5, 8);
    output[64 + lane] = __shfl_up_sync(0xffffffffu, lane, 3);
    output[96 + lane] = __shfl_down_sync(0xffffffffu, lane, 3, 16);
    output[128 + lane] = static_cast<unsigned>(__shfl_xor_sync(0xffffffffu, 0.5f * lane, 6) * 2);
    output[160 + lane] = __ballot_sync(0xffffffffu, lane % 3 == 0);
    output[192 + lane] =
        static_cast<unsigned>(__any_sync(0xffffffffu, lane == 31) + 2 * __all_sync(0xffffffffu, lane != 31));
    // Halves of the warp on their own, at the same time.
    if (lane < 16) {
        output[224 + lane] = __shfl_xor_sync(0x0000ffffu, lane, 1);
    } else {
        output[224 + lane] = __shfl_xor_sync(0xffff0000u, lane, 2);
    }
}

void test_warp() {
    DeviceArray<unsigned> output(std::vector<unsigned>(256));
    ptx::launch("warp", warp_kernel, 1, 32, 0, nullptr, output.data());
    std::vector<unsigned> wanted(256);
    for (unsigned lane = 0; lane < 32; ++lane) {
        wanted[lane] = 5;
        wanted[32 + lane] = lane / 8 * 8 + 5;
        wanted[64 + lane] = lane < 3 ? lane : lane - 3;
        wanted[96 + lane] = lane % 16 + 3 > 15 ? lane : lane + 3;
        wanted[128 + lane] = lane ^ 6;
        wanted[160 + lane] = 0x49249249u;
        wanted[192 + lane] = 1;
        wanted[224 + lane] = lane < 16 ? lane ^ 1 : lane ^ 2;
    }
    expect_equal(output.download(), wanted, "word");
}

__global__ void bits_kernel(unsigned* output) {
    output[0] = __umulhi(0xd2511f53u, 0x9e3779b9u);
    output[1] = static_cast<unsigned>(__popc(0xf0f0u));
    output[2] = static_cast<unsigned>(__clz(0x00010000));
    output[3] = static_cast<unsigned>(__ffs(0x18));
    output[4] = __brev(0x00000003u);
    output[5] = __byte_perm(0x03020100u, 0x87060504u, 0xf065u);
    output[6] = __funnelshift_l(0x80000001u, 0x00000002u, 4);
    output[7] = __funnelshift_r(0x80000001u, 0x00000002u, 4);
    output[8] = static_cast<unsigned>(__clz(0) + 100 * __ffs(0));
    output[9] = static_cast<unsigned>(max(-3, 2) * 10 + min(7, 4));
}

void test_bits() {
    DeviceArray<unsigned> output(std::vector<unsigned>(10));
    ptx::launch("bits", bits_kernel, 1, 1, 0, nullptr, output.data());
    const auto high = static_cast<unsigned>(0xd2511f53ull * 0x9e3779b9ull >> 32);
    expect_equal(output.download(), {high, 8u, 15u, 4u, 0xc0000000u, 0xff000605u, 0x00000028u, 0x28000000u, 32u, 24u},
                 "word");
}

__global__ void atomics_kernel(unsigned* words, float* sum) {
    const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    atomicAdd(&words[0], 1);
    atomicMax(&words[1], i);
    atomicMin(&words[2], i);
    atomicOr(&words[3], 1u << i % 32);
    atomicAnd(&words[4], ~(1u << i % 32));
    atomicInc(&words[5], 99);
    if (atomicCAS(&words[6], 0u, 5u) == 0u) atomicExch(&words[7], 9u);
    atomicAdd(sum, 0.5f);
}

void test_atomics() {
    DeviceArray<unsigned> words({0u, 0u, ~0u, 0u, ~0u, 0u, 0u, 0u});
    DeviceArray<float> sum({0.0f});
    ptx::launch("atomics", atomics_kernel, 4, 64, 0, nullptr, words.data(), sum.data());
    expect_equal(words.download(), {256u, 255u, 0u, ~0u, 0u, 56u, 5u, 9u}, "word");
    expect_equal(sum.download(), {128.0f}, "sum");
}

// ---- where a thread stands, in three dimensions

__global__ void coordinates_kernel(unsigned* output) {
    const unsigned thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
    const unsigned block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
    output[block * blockDim.x * blockDim.y * blockDim.z + thread] = 1000 * block + thread;
}

void test_coordinates() {
    DeviceArray<unsigned> output(std::vector<unsigned>(12 * 60));
    ptx::launch("coordinates", coordinates_kernel, dim3(2, 3, 2), dim3(5, 4, 3), 0, nullptr, output.data());
    std::vector<unsigned> wanted;
    for (unsigned i = 0; i < 12 * 60; ++i) wanted.push_back(1000 * (i / 60) + i % 60);
    expect_equal(output.download(), wanted, "word");
}

}  // namespace

int main(int argc, char** argv) {
    return harness::run_cases(argc, argv,
                              {{"ldmatrix", test_ldmatrix},
                               {"ldmatrix_trans", test_ldmatrix_trans},
                               {"mma_fp16", test_mma_k16<float16>},
                               {"mma_bf16", test_mma_k16<bfloat16>},
                               {"mma_tf32", test_mma_tf32},
                               {"cp_async", test_cp_async},
                               {"cp_async_groups", test_cp_async_groups},
                               {"barriers", test_barriers},
                               {"numbers", test_numbers},
                               {"round_trip", test_round_trip},
                               {"warp", test_warp},
                               {"bits", test_bits},
                               {"atomics", test_atomics},
                               {"coordinates", test_coordinates}});
}
