// One spelling for a launch, under nvcc and on the emulator.
#pragma once

#include <cstddef>
#include <stdexcept>
#include <string>
#include <utility>

#include "platform.cuh"

#ifdef __CUDACC__
#include <map>
#include <mutex>

#include "errors.cuh"
#else
using cudaStream_t = struct CUstream_st*;
#endif

namespace ptx {

#ifdef __CUDACC__
namespace detail {

// Lets a kernel have so much shared memory on the current device: where it may not yet. For all threads, since a lesser
// number would take back what another has been told.
inline cudaError_t allow_shared(const void* kernel, int bytes) {
    static std::mutex mutex;
    static std::map<std::pair<const void*, int>, int> allowed;  // by kernel and device
    int device = 0;
    if (const cudaError_t status = cudaGetDevice(&device); status != cudaSuccess) return status;
    const std::lock_guard lock(mutex);
    int& most = allowed[{kernel, device}];
    if (bytes <= most) return cudaSuccess;
    const cudaError_t status = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
    if (status == cudaSuccess) most = bytes;
    return status;
}

}  // namespace detail
#endif

// Runs kernel(arguments...) on `grid` blocks of `block` threads with that much dynamic shared memory, in the order of
// `stream`; on the emulator, to its end. `cluster` blocks that follow each other along x run together as a cluster; it
// divides the grid. Throws std::runtime_error naming the kernel where the launch fails.
template <typename... Parameters, typename... Arguments>
void launch_clusters(const char* name, void (*kernel)(Parameters...), unsigned cluster, dim3 grid, dim3 block,
                     std::size_t shared_bytes, cudaStream_t stream, Arguments&&... arguments) {
#ifdef __CUDACC__
    constexpr std::size_t kWithoutAsking = 48 * 1024;
    cudaError_t status = cudaSuccess;
    if (shared_bytes > kWithoutAsking) {
        status = detail::allow_shared(reinterpret_cast<const void*>(kernel), static_cast<int>(shared_bytes));
    }
    if (status == cudaSuccess) {
        cudaLaunchConfig_t config = {};
        config.gridDim = grid;
        config.blockDim = block;
        config.dynamicSmemBytes = shared_bytes;
        config.stream = stream;
        cudaLaunchAttribute attribute = {};
        attribute.id = cudaLaunchAttributeClusterDimension;
        attribute.val.clusterDim.x = cluster;
        attribute.val.clusterDim.y = attribute.val.clusterDim.z = 1;
        config.attrs = &attribute;
        config.numAttrs = cluster > 1 ? 1 : 0;
        status = cudaLaunchKernelEx(&config, kernel, std::forward<Arguments>(arguments)...);
    }
    if (status != cudaSuccess)
        throw std::runtime_error(std::string("kernel ") + name + ": launching it: " + take_error(status));
#else
    static_cast<void>(stream);
    emulator::launch_clusters(name, kernel, cluster, grid, block, shared_bytes, std::forward<Arguments>(arguments)...);
#endif
}

template <typename... Parameters, typename... Arguments>
void launch(const char* name, void (*kernel)(Parameters...), dim3 grid, dim3 block, std::size_t shared_bytes,
            cudaStream_t stream, Arguments&&... arguments) {
    launch_clusters(name, kernel, 1, grid, block, shared_bytes, stream, std::forward<Arguments>(arguments)...);
}

}  // namespace ptx
