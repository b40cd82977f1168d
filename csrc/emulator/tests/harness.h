// What the test programs share: memory that kernels can use, and a main that runs cases by name over several seeds.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "../../cuda/ptx/launch.cuh"

namespace harness {

#ifdef __CUDACC__
inline void check(cudaError_t status) {
    if (status != cudaSuccess) throw std::runtime_error(cudaGetErrorString(status));
}
#endif

template <typename T>
class DeviceArray {
  public:
    explicit DeviceArray(const std::vector<T>& values) : size_(values.size()) {
        const std::size_t bytes = size_ * sizeof(T);
#ifdef __CUDACC__
        check(cudaMalloc(&data_, bytes));
        check(cudaMemcpy(data_, values.data(), bytes, cudaMemcpyHostToDevice));
#else
        memory_ = std::make_unique<emulator::GuardedMemory>(bytes);
        data_ = reinterpret_cast<T*>(memory_->data());
        std::memcpy(static_cast<void*>(data_), values.data(), bytes);
#endif
    }
#ifdef __CUDACC__
    ~DeviceArray() { cudaFree(data_); }
#endif
    DeviceArray(const DeviceArray&) = delete;
    DeviceArray& operator=(const DeviceArray&) = delete;

    T* data() const { return data_; }
    std::vector<T> download() const {
        std::vector<T> values(size_);
#ifdef __CUDACC__
        check(cudaMemcpy(values.data(), data_, size_ * sizeof(T), cudaMemcpyDeviceToHost));
#else
        std::memcpy(static_cast<void*>(values.data()), data_, size_ * sizeof(T));
        if (memory_->first_damage() != nullptr) throw std::runtime_error("a kernel wrote outside of its array");
#endif
        return values;
    }

  private:
    std::size_t size_;
    T* data_ = nullptr;
#ifndef __CUDACC__
    std::unique_ptr<emulator::GuardedMemory> memory_;
#endif
};

inline std::vector<float> random_floats(std::size_t count, unsigned seed) {
    std::mt19937 engine(seed);
    std::uniform_real_distribution<float> uniform(-1.0f, 1.0f);
    std::vector<float> values(count);
    for (float& value : values) value = uniform(engine);
    return values;
}

template <typename T>
void expect_equal(const std::vector<T>& got, const std::vector<T>& wanted, const char* what) {
    for (std::size_t i = 0; i < wanted.size(); ++i) {
        if (std::memcmp(&got[i], &wanted[i], sizeof(T)) != 0) {
            throw std::runtime_error(std::string("wrong result: ") + what + "[" + std::to_string(i) + "] is " +
                                     std::to_string(got[i]) + ", wanted is " + std::to_string(wanted[i]));
        }
    }
}

inline void expect_close(const std::vector<float>& got, const std::vector<double>& wanted, double tolerance,
                         const char* what) {
    for (std::size_t i = 0; i < wanted.size(); ++i) {
        const double difference = got[i] - wanted[i];
        if (!(difference <= tolerance && -difference <= tolerance)) {
            throw std::runtime_error(std::string("wrong result: ") + what + "[" + std::to_string(i) + "] is " +
                                     std::to_string(got[i]) + ", wanted is " + std::to_string(wanted[i]));
        }
    }
}

struct Case {
    const char* name;
    void (*run)();
};

// program NAME [SEEDS]: runs the case once for each seed. Exit status 0 if all went well, 1 with the first error's
// text.
inline int run_cases(int argc, char** argv, const std::vector<Case>& cases) {
    if (argc < 2) {
        for (const Case& one : cases) std::puts(one.name);
        return 0;
    }
    for (const Case& one : cases) {
        if (std::strcmp(one.name, argv[1]) != 0) continue;
        const int seeds = argc > 2 ? std::atoi(argv[2]) : 1;
        for (int seed = 0; seed < seeds; ++seed) {
#ifndef __CUDACC__
            emulator::options().seed = static_cast<std::uint64_t>(seed);
#endif
            try {
                one.run();
            } catch (const std::exception& error) {
                std::printf("seed %d: %s\n", seed, error.what());
                return 1;
            }
        }
        return 0;
    }
    std::printf("no case is called %s\n", argv[1]);
    return 2;
}

}  // namespace harness
