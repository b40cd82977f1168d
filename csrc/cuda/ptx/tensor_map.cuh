// Tensor maps: what TMA needs to know of a tensor in global memory, made on the host and passed to the kernel by value
// (const __grid_constant__). Elements have 16 bits; dimensions are innermost first.
#pragma once

#include "platform.cuh"

#ifdef __CUDACC__
#include <cuda.h>

#include <array>
#include <map>
#include <stdexcept>
#include <string>

#include "errors.cuh"
#endif

namespace ptx {

// How a row's vectors of 16 bytes lie in shared memory: permuted within so many bytes by the number of the row, so that
// eight rows' vectors of one number lie in different banks. Rows are as long as that: PTX does not say where shorter
// ones lie, nor which of their bytes an mbarrier counts.
enum class Swizzle { none, bytes_32, bytes_64, bytes_128 };

#ifdef __CUDACC__
using TensorMap = CUtensorMap;

namespace detail {

template <typename Function>
Function driver_function(const char* name) {
    void* function = nullptr;
    cudaDriverEntryPointQueryResult found = cudaDriverEntryPointSymbolNotFound;
    const cudaError_t status = cudaGetDriverEntryPointByVersion(name, &function, 12000, cudaEnableDefault, &found);
    if (status != cudaSuccess || found != cudaDriverEntryPointSuccess) {
        throw std::runtime_error(std::string("the driver has no ") + name);
    }
    return reinterpret_cast<Function>(function);
}

// Encoding wants a current context. A thread that has not called CUDA before has none: then its device's primary one.
inline void bind_context() {
    static const auto current = driver_function<decltype(&cuCtxGetCurrent)>("cuCtxGetCurrent");
    CUcontext context = nullptr;
    if (current(&context) == CUDA_SUCCESS && context != nullptr) return;
    int device = 0;
    cudaError_t status = cudaGetDevice(&device);
    if (status == cudaSuccess) status = cudaSetDevice(device);
    if (status != cudaSuccess) throw std::runtime_error("making a GPU's context current: " + take_error(status));
}

inline void check(CUresult status, const char* name) {
    if (status != CUDA_SUCCESS) throw std::runtime_error(std::string(name) + ": error " + std::to_string(status));
}

// All that a map is made of.
using Recipe = std::array<std::uint64_t, 18>;

template <typename... Parts>
Recipe recipe_of(const void* data, Swizzle swizzle, const Parts&... parts) {
    Recipe recipe = {reinterpret_cast<std::uintptr_t>(data), static_cast<std::uint64_t>(swizzle)};
    std::size_t used = 2;
    const auto add = [&](const auto& part) {
        for (const auto number : part) recipe.at(used++) = static_cast<std::uint64_t>(number);
    };
    (add(parts), ...);
    return recipe;
}

// A layer asks for the same maps time after time: a thread keeps those that it has had encoded, up to a number.
template <typename Encode>
TensorMap once(const Recipe& recipe, Encode&& encode) {
    constexpr std::size_t kMost = 1024;
    thread_local std::map<Recipe, TensorMap> maps;
    const auto found = maps.find(recipe);
    if (found != maps.end()) return found->second;
    if (maps.size() == kMost) maps.clear();
    return maps.emplace(recipe, encode()).first->second;
}

}  // namespace detail
#else
using TensorMap = emulator::TensorMap;
#endif

// For boxes of `box` elements. `sizes` in elements; `strides` in bytes, of dimensions 1 and up, multiples of 16.
template <int kRank>
TensorMap encode_tiled(const void* data, const std::uint64_t (&sizes)[kRank], const std::uint64_t (&strides)[kRank - 1],
                       const std::uint32_t (&box)[kRank], Swizzle swizzle) {
#ifdef __CUDACC__
    return detail::once(detail::recipe_of(data, swizzle, sizes, strides, box), [&] {
        static const auto encode = detail::driver_function<decltype(&cuTensorMapEncodeTiled)>("cuTensorMapEncodeTiled");
        detail::bind_context();
        std::uint32_t steps[kRank];
        for (std::uint32_t& step : steps) step = 1;
        TensorMap map;
        detail::check(encode(&map, CU_TENSOR_MAP_DATA_TYPE_FLOAT16, kRank, const_cast<void*>(data), sizes, strides, box,
                             steps, CU_TENSOR_MAP_INTERLEAVE_NONE, static_cast<CUtensorMapSwizzle>(swizzle),
                             CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE),
                      "cuTensorMapEncodeTiled");
        return map;
    });
#else
    return emulator::encode_tiled(const_cast<void*>(data), 2, kRank, sizes, strides, box,
                                  static_cast<emulator::Swizzle>(swizzle));
#endif
}

// For copies of `pixels` pixels of `channels` channels. Dimensions are C, W, H, N; corners and steps are of W and H.
// The first pixel's place runs from `lower` to size - 1 + `upper`, both included, in steps.
inline TensorMap encode_im2col(const void* data, const std::uint64_t (&sizes)[4], const std::uint64_t (&strides)[3],
                               const int (&lower)[2], const int (&upper)[2], std::uint32_t channels,
                               std::uint32_t pixels, const std::uint32_t (&steps)[2], Swizzle swizzle) {
#ifdef __CUDACC__
    const std::array<std::uint32_t, 2> copied = {channels, pixels};
    return detail::once(detail::recipe_of(data, swizzle, sizes, strides, lower, upper, copied, steps), [&] {
        static const auto encode =
            detail::driver_function<decltype(&cuTensorMapEncodeIm2col)>("cuTensorMapEncodeIm2col");
        static const int version = driver_version();
        detail::bind_context();
        const std::uint32_t all_steps[4] = {1, steps[0], steps[1], 1};
        TensorMap map;
        detail::check(
            encode(&map, CU_TENSOR_MAP_DATA_TYPE_FLOAT16, 4, const_cast<void*>(data), sizes, strides, lower, upper,
                   channels, pixels, all_steps, CU_TENSOR_MAP_INTERLEAVE_NONE, static_cast<CUtensorMapSwizzle>(swizzle),
                   CU_TENSOR_MAP_L2_PROMOTION_L2_128B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE),
            "cuTensorMapEncodeIm2col");
        // Drivers up to 13.1 set a bit for tensors below 128 KiB that im2col copies must not have; CUTLASS clears it
        // too (cute/atom/copy_traits_sm90_im2col.hpp).
        if (version <= 13010 && strides[2] * sizes[3] < 131072) map.opaque[1] &= ~(1ull << 21);
        return map;
    });
#else
    return emulator::encode_im2col(const_cast<void*>(data), 2, sizes, strides, lower, upper, channels, pixels, steps,
                                   static_cast<emulator::Swizzle>(swizzle));
#endif
}

}  // namespace ptx
