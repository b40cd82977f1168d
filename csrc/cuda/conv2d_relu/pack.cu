// Tensors of any strides to what the products read: NHWC, each group's channels padded with zeros. On the way a
// gradient is masked with the ReLU's output and its sum over pixels is begun.
#include "store.cuh"
#include "traits.cuh"

namespace alexkern::conv2d_relu {
namespace {

constexpr int kThreads = 256, kPixels = 64, kChannels = 64;  // a block's tile
constexpr int kParts = kThreads / kChannels;                 // a channel's sum is shared by so many threads

template <typename T>
struct Pack {
    // 8 bytes more than a row: writes down one channel spread over the banks.
    static constexpr int kPitch = kChannels + 4 / static_cast<int>(sizeof(T)) * 2;  // values
    static constexpr int kOffsetsAt = kPixels * kPitch * static_cast<int>(sizeof(T));
    static constexpr int kSharedBytes = kOffsetsAt + 2 * kPixels * static_cast<int>(sizeof(std::int64_t));
    static constexpr int kPiece = 8 / sizeof(T);  // values of 8 bytes, the least that padding fills
};

template <typename T>
struct alignas(8) Piece {
    T value[8 / sizeof(T)];
};

template <typename T>
__device__ __forceinline__ T masked(T value, T output) {
    return ptx::to_float(output) <= 0.0f ? ptx::from_float<T>(0.0f) : value;
}

// 8 bytes at a time, where the source's channels lie side by side.
template <typename T>
__device__ __forceinline__ bool is_in_pieces(const PackParams& p) {
    const auto fits = [](const void* data, const Image& layout) {
        constexpr int kPiece = Pack<T>::kPiece;
        return layout.stride_C == 1 && layout.stride_N % kPiece == 0 && layout.stride_H % kPiece == 0 &&
               layout.stride_W % kPiece == 0 && reinterpret_cast<std::uintptr_t>(data) % 8 == 0;
    };
    return p.source.C / p.groups == p.padded_C && fits(p.source.data, p.source) &&
           (p.mask.data == nullptr || fits(p.mask.data, p.mask));
}

// Three blocks a multiprocessor leave it the registers that it wants.
template <typename T>
__global__ void __launch_bounds__(kThreads, 3) pack_kernel(const __grid_constant__ PackParams p) {
    using Kernel = Pack<T>;
    constexpr int kPitch = Kernel::kPitch, kPiece = Kernel::kPiece;
    unsigned char* shared = ptx::dynamic_shared_memory<unsigned char>();
    T* tile = reinterpret_cast<T*>(shared);                                                // (kPixels, kPitch)
    std::int64_t* offsets = reinterpret_cast<std::int64_t*>(shared + Kernel::kOffsetsAt);  // (2, kPixels)
    const int all_channels = p.groups * p.padded_C, channels = p.source.C / p.groups;
    const int channel_tiles = divide_up(all_channels, kChannels);
    const int first_channel = static_cast<int>(blockIdx.x % channel_tiles) * kChannels;
    const int chunk = static_cast<int>(blockIdx.x / channel_tiles);
    const std::int64_t pixels = static_cast<std::int64_t>(p.source.N) * p.source.H * p.source.W;
    const std::int64_t tiles = divide_up<std::int64_t>(pixels, kPixels);
    const std::int64_t last_tile = tiles * (chunk + 1) / p.chunks;
    const T* const source = static_cast<const T*>(p.source.data);
    const T* const mask = static_cast<const T*>(p.mask.data);
    T* const destination = static_cast<T*>(p.destination);
    const bool in_pieces = is_in_pieces<T>(p), along_channels = p.source.stride_C == 1;
    double sum = 0.0;  // memory sets the pace here, and thousands of pixels add up
    for (std::int64_t t = tiles * chunk / p.chunks; t < last_tile; ++t) {
        const std::int64_t first_pixel = t * kPixels;
        for (int i = threadIdx.x; i < kPixels; i += kThreads) {
            const std::int64_t line = (first_pixel + i) / p.source.W, w = (first_pixel + i) % p.source.W;
            const std::int64_t n = line / p.source.H, h = line % p.source.H;
            offsets[i] = n * p.source.stride_N + h * p.source.stride_H + w * p.source.stride_W;
            offsets[kPixels + i] = n * p.mask.stride_N + h * p.mask.stride_H + w * p.mask.stride_W;
        }
        __syncthreads();
        if (in_pieces) {
            for (int i = threadIdx.x; i < kPixels * kChannels / kPiece; i += kThreads) {
                const int pixel = i / (kChannels / kPiece), channel = i % (kChannels / kPiece) * kPiece;
                Piece<T> values = {};
                if (first_pixel + pixel < pixels && first_channel + channel < all_channels) {
                    values = *reinterpret_cast<const Piece<T>*>(source + offsets[pixel] + first_channel + channel);
                    if (mask != nullptr) {
                        const Piece<T> outputs = *reinterpret_cast<const Piece<T>*>(mask + offsets[kPixels + pixel] +
                                                                                    first_channel + channel);
                        for (int k = 0; k < kPiece; ++k) values.value[k] = masked(values.value[k], outputs.value[k]);
                    }
                }
                *reinterpret_cast<Piece<T>*>(tile + pixel * kPitch + channel) = values;
            }
        } else {
            for (int i = threadIdx.x; i < kPixels * kChannels; i += kThreads) {
                // Neighbouring threads read neighbouring places, in either format.
                const int pixel = along_channels ? i / kChannels : i % kPixels;
                const int channel = along_channels ? i % kChannels : i / kPixels;
                const int group = (first_channel + channel) / p.padded_C, c = (first_channel + channel) % p.padded_C;
                T value = ptx::from_float<T>(0.0f);
                if (first_pixel + pixel < pixels && group < p.groups && c < channels) {
                    const std::int64_t source_c = group * channels + c;
                    value = source[offsets[pixel] + source_c * p.source.stride_C];
                    if (mask != nullptr) {
                        value = masked(value, mask[offsets[kPixels + pixel] + source_c * p.mask.stride_C]);
                    }
                }
                tile[pixel * kPitch + channel] = value;
            }
        }
        __syncthreads();
        for (int i = threadIdx.x; i < kPixels * kChannels / kPiece; i += kThreads) {
            const int pixel = i / (kChannels / kPiece), channel = i % (kChannels / kPiece) * kPiece;
            if (first_pixel + pixel >= pixels || first_channel + channel >= all_channels) continue;
            *reinterpret_cast<Piece<T>*>(destination + (first_pixel + pixel) * all_channels + first_channel + channel) =
                *reinterpret_cast<const Piece<T>*>(tile + pixel * kPitch + channel);
        }
        if (p.sums != nullptr) {
            for (int pixel = threadIdx.x / kChannels; pixel < kPixels; pixel += kParts)
                sum += ptx::to_float(tile[pixel * kPitch + threadIdx.x % kChannels]);
        }
        __syncthreads();
    }
    if (p.sums == nullptr) return;
    double* parts = reinterpret_cast<double*>(shared);  // (kParts, kChannels)
    parts[threadIdx.x] = sum;
    __syncthreads();
    const int channel = threadIdx.x;
    if (channel < kChannels && first_channel + channel < all_channels) {
        double total = parts[channel];
        for (int part = 1; part < kParts; ++part) total += parts[part * kChannels + channel];
        p.sums[static_cast<std::int64_t>(chunk) * all_channels + first_channel + channel] = static_cast<float>(total);
    }
}

}  // namespace

void pack(Element element, const PackParams& params, Stream stream) {
    const std::int64_t blocks =
        static_cast<std::int64_t>(params.chunks) * divide_up(params.groups * params.padded_C, kChannels);
    if (blocks == 0) return;
    with_type(element, [&](auto zero) {
        using T = decltype(zero);
        ptx::launch("conv2d_relu's packing", pack_kernel<T>, grid_of(blocks, "packing"), kThreads,
                    Pack<T>::kSharedBytes, stream, params);
    });
}

}  // namespace alexkern::conv2d_relu
