// Runs a step's kernels once, on the emulator or on a GPU:
//
//     program N H W C K R S INPUT OUTPUT
//
// INPUT has x, w and b, and OUTPUT gets conv, pooled and place. Prints one line: what the emulator counted in all
// kernels, or the microseconds of a run on a GPU, the best of twenty; or what went wrong, with exit status 1.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <fstream>
#include <vector>

#include "../../csrc/emulator/tests/harness.h"
#include "layer.h"

namespace {

using harness::DeviceArray;

template <typename T>
std::vector<T> read(std::istream& file, std::size_t count) {
    std::vector<T> values(count);
    file.read(reinterpret_cast<char*>(values.data()), static_cast<std::streamsize>(count * sizeof(T)));
    return values;
}

template <typename T>
void write(std::ostream& file, const DeviceArray<T>& array) {
    const std::vector<T> values = array.download();
    file.write(reinterpret_cast<const char*>(values.data()), static_cast<std::streamsize>(values.size() * sizeof(T)));
}

#ifdef __CUDACC__
void run(const Layer& v) {
    cudaEvent_t start, stop;
    harness::check(cudaEventCreate(&start));
    harness::check(cudaEventCreate(&stop));
    float best = 1e30f, milliseconds = 0.0f;
    for (int i = 0; i < 20; ++i) {
        harness::check(cudaEventRecord(start));
        for (const Launcher* launch = launchers; *launch != nullptr; ++launch) (*launch)(v, nullptr);
        harness::check(cudaEventRecord(stop));
        harness::check(cudaEventSynchronize(stop));
        harness::check(cudaEventElapsedTime(&milliseconds, start, stop));
        best = std::min(best, milliseconds);
    }
    std::printf("microseconds %.2f\n", 1000.0 * best);
}
#else
void run(const Layer& v) {
    unsigned long long ldmatrix = 0, conflicts = 0, mma = 0, wgmma = 0, copies = 0, bulk = 0;
    for (const Launcher* launch = launchers; *launch != nullptr; ++launch) {
        (*launch)(v, nullptr);
        const emulator::Statistics of = emulator::statistics();
        ldmatrix += of.ldmatrix;
        conflicts += of.ldmatrix_bank_conflicts;
        mma += of.mma;
        wgmma += of.wgmma;
        copies += of.async_copies;
        bulk += of.bulk_copies;
    }
    std::printf("ldmatrix %llu conflicts %llu mma %llu wgmma %llu cp.async %llu TMA %llu\n", ldmatrix, conflicts, mma,
                wgmma, copies, bulk);
}
#endif

}  // namespace

int main(int argc, char** argv) {
    if (argc != 10) return 2;
    Layer v = {};
    int* const sizes[] = {&v.N, &v.H, &v.W, &v.C, &v.K, &v.R, &v.S};
    for (int i = 0; i < 7; ++i) *sizes[i] = std::atoi(argv[1 + i]);
    const std::size_t m = v.gemm_m(), k = v.gemm_k(), windows = std::size_t(v.N) * v.pooled_h() * v.pooled_w();
    std::ifstream input(argv[8], std::ios::binary);
    const auto none = [](std::size_t count) { return std::vector<float16>(count, {0x7e00}); };  // NaN
    try {
        const DeviceArray<float16> x(read<float16>(input, m * v.C)), w(read<float16>(input, v.K * k));
        const DeviceArray<float16> b(read<float16>(input, v.K)), rows(none(m * k)), conv(none(m * v.K));
        const DeviceArray<float16> pooled(none(windows * v.K));
        const DeviceArray<std::uint8_t> place(std::vector<std::uint8_t>(windows * v.K, 77));
        v.x = x.data(), v.w = w.data(), v.b = b.data();
        v.rows = rows.data(), v.conv = conv.data(), v.pooled = pooled.data(), v.place = place.data();
        run(v);
        std::ofstream output(argv[9], std::ios::binary);
        write(output, conv);
        write(output, pooled);
        write(output, place);
    } catch (const std::exception& error) {
        std::puts(error.what());
        return 1;
    }
    return 0;
}
