// SPDX-License-Identifier: Apache-2.0
#include <cuda_runtime_api.h>

#include <algorithm>
#include <array>

#include "core/backend.h"
#include "cuda/ceilings/parts.h"
#include "cuda/ceilings/read.h"
#include "cuda/ceilings/stream.cuh"
#include "cuda/check.h"

namespace tokamak::ceilings {
namespace {

using cuda::check;

constexpr std::size_t kGb = 1ULL << 30;

/// A way to read: how it is launched over `bytes` at `data`.
struct Reader {
    const char* name;
    void (*launch)(const std::uint8_t* data, std::size_t bytes, int sms, std::uint32_t* sink, cudaStream_t stream);
};

template <int CopyBytes, int Slots, int CtasPerSm>
void launch_bulk(const std::uint8_t* data, std::size_t bytes, int sms, std::uint32_t*, cudaStream_t stream) {
    const auto kernel = read_by_bulk_copies<CopyBytes, Slots>;
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, CopyBytes * Slots),
          "cudaFuncSetAttribute");
    kernel<<<sms * CtasPerSm, 32, CopyBytes * Slots, stream>>>(data, bytes);
    check(cudaGetLastError(), "read_by_bulk_copies");
}

template <int Threads, int Unroll, int CtasPerSm>
void launch_loads(const std::uint8_t* data, std::size_t bytes, int sms, std::uint32_t* sink, cudaStream_t stream) {
    read_by_loads<Threads, Unroll>
        <<<sms * CtasPerSm, Threads, 0, stream>>>(reinterpret_cast<const uint4*>(data), bytes, sink);
    check(cudaGetLastError(), "read_by_loads");
}

constexpr std::array<Reader, 5> kReaders = {{
    {"bulk 16 KB x 6", launch_bulk<16384, 6, 1>},
    {"bulk 4 KB x 24", launch_bulk<4096, 24, 1>},
    {"bulk 8 KB x 8, 2 CTAs", launch_bulk<8192, 8, 2>},
    {"loads 256 x 16, 2 CTAs", launch_loads<256, 16, 2>},
    {"loads 512 x 8, 2 CTAs", launch_loads<512, 8, 2>},
}};

/// One graph that reads `windows` different windows of `bytes`, one node each; microseconds of a node.
double time_windows(const Context& context, const Reader& reader, const std::uint8_t* data, std::size_t bytes,
                    int windows) {
    const cuda::CapturedGraph graph(context.stream, [&] {
        for (int w = 0; w < windows; ++w)
            reader.launch(data + static_cast<std::size_t>(w) * bytes, bytes, context.sms, context.sink,
                          context.stream.handle());
    });
    return cuda::time_graph(context.stream, graph, 2, 7).median / windows;
}

}  // namespace

__global__ void fill_random(std::uint32_t* data, std::size_t words, std::uint32_t seed) {
    for (std::size_t i = blockIdx.x * static_cast<std::size_t>(blockDim.x) + threadIdx.x; i < words;
         i += static_cast<std::size_t>(gridDim.x) * blockDim.x) {
        std::uint32_t h = static_cast<std::uint32_t>(i) * 0x9E3779B1U + static_cast<std::uint32_t>(i >> 32) + seed;
        h = (h ^ (h >> 16)) * 0x85EBCA6BU;
        h = (h ^ (h >> 13)) * 0xC2B2AE35U;
        data[i] = (h ^ (h >> 16)) | 1U;
    }
}

__global__ void moderate(std::uint32_t* data, std::size_t words, bool fp8) {
    for (std::size_t i = blockIdx.x * static_cast<std::size_t>(blockDim.x) + threadIdx.x; i < words;
         i += static_cast<std::size_t>(gridDim.x) * blockDim.x) {
        // e4m3: exponent field 4 to 7; bf16: exponent field 124 to 127.
        data[i] = fp8 ? (data[i] & 0x9F9F9F9FU) | 0x20202020U : (data[i] & 0x81FF81FFU) | 0x3E003E00U;
    }
}

void make_moderate(const Context& context, void* data, std::size_t bytes, bool fp8) {
    moderate<<<context.sms * 8, 256, 0, context.stream.handle()>>>(static_cast<std::uint32_t*>(data), bytes / 4, fp8);
    check(cudaGetLastError(), "moderate");
}

void fill(const Context& context, void* data, std::size_t bytes, std::uint32_t seed) {
    fill_random<<<context.sms * 8, 256, 0, context.stream.handle()>>>(static_cast<std::uint32_t*>(data), bytes / 4,
                                                                      seed);
    check(cudaGetLastError(), "fill_random");
}

float time_read(const std::uint8_t* data, std::size_t bytes, const cuda::OwnedStream& stream) {
    int sms = 0;
    check(cudaDeviceGetAttribute(&sms, cudaDevAttrMultiProcessorCount, 0), "cudaDeviceGetAttribute");
    return cuda::time_once(stream, [&] { kReaders[0].launch(data, bytes, sms, nullptr, stream.handle()); });
}

void measure_memory(const Context& context, Ceilings& result) {
    const std::size_t pool_bytes = 8 * kGb;
    const auto pool = backend::allocate(context.device, pool_bytes);
    const auto* data = static_cast<const std::uint8_t*>(pool.get());
    fill(context, pool.get(), pool_bytes, 1);

    double best_us = 0.0;
    for (const Reader& reader : kReaders) {
        const double us = time_windows(context, reader, data, pool_bytes, 1);
        best_us = best_us == 0.0 ? us : std::min(best_us, us);
    }
    result.read_gbps = static_cast<double>(pool_bytes) / best_us * 1e-3;

    constexpr std::array<int, 12> megabytes = {2, 4, 8, 19, 38, 50, 66, 132, 264, 528, 792, 1056};
    for (const int mb : megabytes) {
        const std::size_t bytes = static_cast<std::size_t>(mb) * 1'000'000 / 16384 * 16384;
        // Enough windows that a round trip through them is many times the L2, and no more nodes than a graph likes.
        const int windows = static_cast<int>(std::min<std::size_t>(pool_bytes / bytes, 400));
        ReadFloor floor{bytes, 0.0, ""};
        for (const Reader& reader : kReaders) {
            const double us = time_windows(context, reader, data, bytes, windows);
            if (floor.us == 0.0 || us < floor.us) floor = {bytes, us, reader.name};
        }
        result.read_floors.push_back(floor);
    }

    const auto target = backend::allocate(context.device, pool_bytes);
    const auto copy = [&] {
        check(cudaMemcpyAsync(target.get(), pool.get(), pool_bytes, cudaMemcpyDeviceToDevice, context.stream.handle()),
              "cudaMemcpyAsync");
    };
    std::vector<float> samples;
    for (int i = 0; i < 6; ++i) samples.push_back(cuda::time_once(context.stream, copy));
    samples.erase(samples.begin());
    result.copy_gbps = 2.0 * static_cast<double>(pool_bytes) / cuda::quantiles(samples).median * 1e-3;
}

}  // namespace tokamak::ceilings
