// A CUDA runtime that launches nothing. Linked in place of NVIDIA's it makes a native module whose launchers run to the
// end on a machine without a GPU, or without any kernel's time: alexkern/tools/rehearsal.py builds it. Every launch is
// told to whoever asked; what it returns can be chosen, so that errors come back as they would from a driver.
//
// It has what nvcc's objects and csrc/cuda/runtime.cu call, and no more: a missing function fails when the module is
// built. Host pointers come here, so nothing here may ask for a real runtime or driver.
#include <cuda.h>
#include <cuda_runtime_api.h>

#include <cstring>
#include <string>
#include <unordered_map>
#include <utility>

namespace {

// kernel: its mangled name; sizes: grid x, y, z, block x, y, z, blocks of a cluster along x; shared: dynamic bytes.
using Listener = void (*)(const char* kernel, const unsigned* sizes, std::size_t shared);

Listener listener = nullptr;
cudaError_t launch_status = cudaSuccess;
int driver_version = CUDART_VERSION;
int questions = 0;                // for the driver, which a launch need not ask again
thread_local bool bound = false;  // a context is current, since cudaSetDevice or a launch

std::unordered_map<const void*, std::string>& kernels() {
    static std::unordered_map<const void*, std::string> names;  // by the host's function
    return names;
}

}  // namespace

extern "C" {

void rehearsal_listen(Listener to) { listener = to; }
void rehearsal_launches_return(int status) { launch_status = static_cast<cudaError_t>(status); }
void rehearsal_driver_is(int version) { driver_version = version; }
int rehearsal_questions() { return questions; }

void** __cudaRegisterFatBinary(void*) {
    static void* handle;
    return &handle;
}
void __cudaRegisterFatBinaryEnd(void**) {}
void __cudaUnregisterFatBinary(void**) {}
void __cudaRegisterFunction(void**, const char* host, char*, const char* name, int, uint3*, uint3*, dim3*, dim3*,
                            int*) {
    kernels()[host] = name;
}

// Only the <<<>>> of a kernel's stub would call these, and there is none.
cudaError_t __cudaGetKernel(cudaKernel_t*, const void*) { return cudaErrorNotSupported; }
cudaError_t __cudaLaunchKernel(cudaKernel_t, dim3, dim3, void**, std::size_t, cudaStream_t) {
    return cudaErrorNotSupported;
}
cudaError_t __cudaPopCallConfiguration(dim3*, dim3*, std::size_t*, void*) { return cudaErrorNotSupported; }

}  // extern "C"

cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* config, const void* kernel, void**) {
    bound = true;
    if (listener != nullptr) {
        const dim3 &grid = config->gridDim, &block = config->blockDim;
        unsigned cluster = 1;
        for (unsigned i = 0; i < config->numAttrs; ++i) {
            if (config->attrs[i].id == cudaLaunchAttributeClusterDimension) cluster = config->attrs[i].val.clusterDim.x;
        }
        const unsigned sizes[] = {grid.x, grid.y, grid.z, block.x, block.y, block.z, cluster};
        listener(kernels().at(kernel).c_str(), sizes, config->dynamicSmemBytes);
    }
    return launch_status;
}

// A driver's function for tensor maps, which nobody will use.
template <typename... Arguments>
CUresult encode_nothing(Arguments...) {
    ++questions;
    return bound ? CUDA_SUCCESS : CUDA_ERROR_INVALID_CONTEXT;
}

CUresult current_context(CUcontext* context) {
    *context = bound ? reinterpret_cast<CUcontext>(&bound) : nullptr;
    return CUDA_SUCCESS;
}

cudaError_t cudaGetDriverEntryPointByVersion(const char* name, void** function, unsigned, unsigned long long,
                                             cudaDriverEntryPointQueryResult* found) {
    const decltype(&cuTensorMapEncodeTiled) tiled = encode_nothing;
    const decltype(&cuTensorMapEncodeIm2col) im2col = encode_nothing;
    const std::pair<const char*, void*> functions[] = {
        {"cuTensorMapEncodeTiled", reinterpret_cast<void*>(tiled)},
        {"cuTensorMapEncodeIm2col", reinterpret_cast<void*>(im2col)},
        {"cuCtxGetCurrent", reinterpret_cast<void*>(current_context)},
    };
    *function = nullptr;
    for (const auto& [known, of_it] : functions) {
        if (std::strcmp(name, known) == 0) *function = of_it;
    }
    *found = *function != nullptr ? cudaDriverEntryPointSuccess : cudaDriverEntryPointSymbolNotFound;
    return cudaSuccess;
}

cudaError_t cudaGetDevice(int* device) {
    *device = 0;
    return cudaSuccess;
}

cudaError_t cudaSetDevice(int) {
    bound = true;
    return cudaSuccess;
}

cudaError_t cudaFuncSetAttribute(const void*, cudaFuncAttribute, int) {
    ++questions;
    return cudaSuccess;
}
cudaError_t cudaGetLastError() { return cudaSuccess; }

const char* cudaGetErrorName(cudaError_t error) {
    return error == cudaErrorInsufficientDriver ? "cudaErrorInsufficientDriver" : "cudaErrorOfARehearsal";
}
const char* cudaGetErrorString(cudaError_t error) {
    return error == cudaErrorInsufficientDriver ? "CUDA driver version is insufficient for CUDA runtime version"
                                                : "an error of a rehearsal";
}

cudaError_t cudaDriverGetVersion(int* version) {
    ++questions;
    *version = driver_version;
    return cudaSuccess;
}
