// SPDX-License-Identifier: Apache-2.0
#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include "cli/bench/decode/kernels.h"
#include "cli/bench/decode/random_bits.h"
#include "tokamak/error.h"

namespace tokamak::cli::bench {
namespace {

constexpr int kThreads = 256;
constexpr int kBlocks = 132 * 8;

void check_launch() {
    if (const cudaError_t status = cudaGetLastError(); status != cudaSuccess)
        throw Error(ErrorCode::device, std::string("bench kernel: ") + cudaGetErrorString(status));
}

__global__ void fill_packed_kernel(uint4* data, std::uint64_t vectors, PackedFill fill, std::uint32_t seed) {
    const std::uint64_t stride = static_cast<std::uint64_t>(gridDim.x) * blockDim.x;
    for (std::uint64_t v = blockIdx.x * static_cast<std::uint64_t>(blockDim.x) + threadIdx.x; v < vectors;
         v += stride) {
        std::uint32_t words[4];
        packed_words(fill, v, seed, words);
        data[v] = {words[0], words[1], words[2], words[3]};
    }
}

__global__ void fill_normal_kernel(__nv_bfloat162* data, std::uint64_t pairs, std::uint32_t seed) {
    const std::uint64_t stride = static_cast<std::uint64_t>(gridDim.x) * blockDim.x;
    for (std::uint64_t i = blockIdx.x * static_cast<std::uint64_t>(blockDim.x) + threadIdx.x; i < pairs; i += stride) {
        const NormalPair pair = normal_pair(i, seed);
        data[i] = __floats2bfloat162_rn(pair.a, pair.b);
    }
}

/// With bound 0: ascending from `first`.
__global__ void fill_numbers(std::int32_t* data, std::uint64_t count, std::uint32_t bound, std::int32_t first,
                             std::uint32_t seed) {
    const std::uint64_t stride = static_cast<std::uint64_t>(gridDim.x) * blockDim.x;
    for (std::uint64_t i = blockIdx.x * static_cast<std::uint64_t>(blockDim.x) + threadIdx.x; i < count; i += stride)
        data[i] = bound == 0 ? first + static_cast<std::int32_t>(i) : uniform_number(i, seed, bound);
}

__global__ void empty_kernel() {}

__global__ void stamp_clocks_kernel(ClockStamp* stamps) {
    std::uint32_t multiprocessor = 0;
    std::uint64_t nanoseconds = 0;
    asm volatile("mov.u32 %0, %%smid;" : "=r"(multiprocessor));
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(nanoseconds));
    stamps[blockIdx.x] = {multiprocessor, static_cast<std::uint64_t>(clock64()), nanoseconds};
}

__global__ void add_atomically_kernel(float* accumulators, const __nv_bfloat162* partials, int top_k,
                                      std::int64_t pairs) {
    const std::int64_t route = blockIdx.y;
    const std::int64_t pair = blockIdx.x * static_cast<std::int64_t>(blockDim.x) + threadIdx.x;
    if (pair >= pairs) return;
    const float2 value = __bfloat1622float2(partials[route * pairs + pair]);
    atomicAdd(reinterpret_cast<float2*>(accumulators) + route / top_k * pairs + pair, value);
}

__global__ void sum_rows_kernel(__nv_bfloat162* out, const __nv_bfloat162* partials, int top_k, std::int64_t pairs) {
    const std::int64_t token = blockIdx.y;
    const std::int64_t pair = blockIdx.x * static_cast<std::int64_t>(blockDim.x) + threadIdx.x;
    if (pair >= pairs) return;
    float2 sum = {0.0F, 0.0F};
    for (int j = 0; j < top_k; ++j) {
        const float2 value = __bfloat1622float2(partials[(token * top_k + j) * pairs + pair]);
        sum.x += value.x;
        sum.y += value.y;
    }
    out[token * pairs + pair] = __floats2bfloat162_rn(sum.x, sum.y);
}

__global__ void round_rows_kernel(__nv_bfloat162* out, const float2* accumulators, std::int64_t pairs) {
    const std::int64_t pair = blockIdx.x * static_cast<std::int64_t>(blockDim.x) + threadIdx.x;
    if (pair < pairs) out[pair] = __floats2bfloat162_rn(accumulators[pair].x, accumulators[pair].y);
}

unsigned blocks_for(std::int64_t items) { return static_cast<unsigned>((items + kThreads - 1) / kThreads); }

}  // namespace

void fill_packed(void* data, std::size_t bytes, const PackedLayout& layout, std::uint32_t seed, Stream stream) {
    const PackedFill fill = packed_fill(layout);
    fill_packed_kernel<<<kBlocks, kThreads, 0, stream.handle>>>(static_cast<uint4*>(data), bytes / 16, fill, seed);
    check_launch();
}

void fill_normal(void* data, std::size_t elements, std::uint32_t seed, Stream stream) {
    fill_normal_kernel<<<kBlocks, kThreads, 0, stream.handle>>>(static_cast<__nv_bfloat162*>(data), elements / 2, seed);
    check_launch();
}

void fill_uniform(std::int32_t* data, std::size_t count, std::int32_t bound, std::uint32_t seed, Stream stream) {
    fill_numbers<<<kBlocks, kThreads, 0, stream.handle>>>(data, count, static_cast<std::uint32_t>(bound), 0, seed);
    check_launch();
}

void fill_ascending(std::int32_t* data, std::size_t count, std::int32_t first, Stream stream) {
    fill_numbers<<<kBlocks, kThreads, 0, stream.handle>>>(data, count, 0, first, 0);
    check_launch();
}

void stamp_clocks(ClockStamp* stamps, Stream stream) {
    stamp_clocks_kernel<<<kClockStamps, 1, 0, stream.handle>>>(stamps);
    check_launch();
}

void launch_empty(Stream stream) {
    empty_kernel<<<132, kThreads, 0, stream.handle>>>();
    check_launch();
}

void add_atomically(float* accumulators, const void* partials, std::int64_t tokens, int top_k, std::int64_t hidden,
                    Stream stream) {
    const dim3 grid(blocks_for(hidden / 2), static_cast<unsigned>(tokens * top_k));
    add_atomically_kernel<<<grid, kThreads, 0, stream.handle>>>(
        accumulators, static_cast<const __nv_bfloat162*>(partials), top_k, hidden / 2);
    check_launch();
}

void sum_rows(void* out, const void* partials, std::int64_t tokens, int top_k, std::int64_t hidden, Stream stream) {
    const dim3 grid(blocks_for(hidden / 2), static_cast<unsigned>(tokens));
    sum_rows_kernel<<<grid, kThreads, 0, stream.handle>>>(
        static_cast<__nv_bfloat162*>(out), static_cast<const __nv_bfloat162*>(partials), top_k, hidden / 2);
    check_launch();
}

void round_rows(void* out, const float* accumulators, std::int64_t tokens, std::int64_t hidden, Stream stream) {
    const std::int64_t pairs = tokens * hidden / 2;
    round_rows_kernel<<<blocks_for(pairs), kThreads, 0, stream.handle>>>(
        static_cast<__nv_bfloat162*>(out), reinterpret_cast<const float2*>(accumulators), pairs);
    check_launch();
}

}  // namespace tokamak::cli::bench
