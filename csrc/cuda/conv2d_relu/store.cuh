// Copies in, and finished values out.
#pragma once

#include "../elements.cuh"
#include "../ptx/cp_async.cuh"
#include "conv2d_relu.h"

namespace alexkern::conv2d_relu {

// A pixel of a batch of images; n < 0 where there is none.
struct Pixel {
    int n, h, w;
};

// Copies kBytes if they are `there`, else writes zeros.
template <int kBytes>
__device__ __forceinline__ void copy(std::uint32_t destination, const void* source, bool there) {
    static_assert(kBytes == 16 || kBytes == 8, "cp.async's sizes for whole vectors");
    if constexpr (kBytes == 16) {
        ptx::cp_async_16(destination, source, there ? 16 : 0);
    } else {
        ptx::cp_async_8(destination, source, there ? 8 : 0);
    }
}

// Finished values on their way out: pixels x channels in shared memory, which leave it in 16 bytes a thread.
template <typename T, int kPixels, int kChannels>
struct Staging {
    static constexpr int kPerStore = 16 / sizeof(T);
    static constexpr int kPitch = kChannels * static_cast<int>(sizeof(T)) + 16;  // bytes; the 16 spread the banks
    static constexpr int kBytes = kPixels * kPitch;

    unsigned char* shared;

    __device__ __forceinline__ T* at(int pixel, int channel) const {
        return reinterpret_cast<T*>(shared + pixel * kPitch) + channel;
    }

    // Two neighbouring channels, the first of them even.
    __device__ __forceinline__ void put(int pixel, int channel, float first, float second) const {
        if constexpr (sizeof(T) == 2) {
            *reinterpret_cast<std::uint32_t*>(at(pixel, channel)) = ptx::pack<T>(first, second);
        } else {
            *reinterpret_cast<float2*>(at(pixel, channel)) = make_float2(first, second);
        }
    }

    // All threads: the first `channels` channels to those of `output` from first_channel on; pixel i goes to
    // placed(i).
    template <int kThreads, typename Placed>
    __device__ __forceinline__ void store(const Image& output, int first_channel, int channels, Placed&& placed) const {
        T* const data = static_cast<T*>(output.data) + first_channel * output.stride_C;
        const auto offset_of = [&](const Pixel& pixel) {
            return pixel.n * output.stride_N + pixel.h * output.stride_H + pixel.w * output.stride_W;
        };
        const bool dense = output.stride_C == 1;
        const bool whole = dense && channels % kPerStore == 0 && output.stride_N % kPerStore == 0 &&
                           output.stride_H % kPerStore == 0 && output.stride_W % kPerStore == 0 &&
                           reinterpret_cast<std::uintptr_t>(data) % 16 == 0;
        if (whole) {
            constexpr int kStores = kChannels / kPerStore;  // of a pixel
            for (int i = threadIdx.x; i < kPixels * kStores; i += kThreads) {
                const int channel = i % kStores * kPerStore;
                const Pixel pixel = placed(i / kStores);
                if (pixel.n < 0 || channel >= channels) continue;
                *reinterpret_cast<uint4*>(data + offset_of(pixel) + channel) =
                    *reinterpret_cast<const uint4*>(at(i / kStores, channel));
            }
            return;
        }
        for (int i = threadIdx.x; i < kPixels * kChannels; i += kThreads) {
            // Neighbouring threads write to neighbouring places, in either format.
            const int number = dense ? i / kChannels : i % kPixels, channel = dense ? i % kChannels : i / kPixels;
            const Pixel pixel = placed(number);
            if (pixel.n < 0 || channel >= channels) continue;
            data[offset_of(pixel) + channel * output.stride_C] = *at(number, channel);
        }
    }
};

}  // namespace alexkern::conv2d_relu
