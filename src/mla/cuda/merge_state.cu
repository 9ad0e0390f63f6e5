// SPDX-License-Identifier: Apache-2.0
// Two partial attentions of the same queries into one, a warp per head. Every lane reads both statistics before one
// writes the merged one: the outputs may be the inputs.
#include <cuda_runtime.h>

#include "mla/cuda/codec.cuh"
#include "mla/cuda/row_kernels.h"

namespace tokamak::mla::cuda {
namespace {

constexpr int kWarps = 4;

/// How the sides count. A dead side is not looked at, so that nothing in it can poison the result.
struct Weights {
    bool live_a, live_b;
    float a, b, total, lse;

    __device__ Weights(float lse_a, float lse_b) {
        const float infinity = __int_as_float(0x7F800000);
        const float maximum = isnan(lse_a) ? lse_a : (lse_b <= lse_a ? lse_a : lse_b);
        if (isinf(maximum)) {  // two empty sides, or infinitely heavy ones that share equally
            live_a = maximum == infinity && lse_a == infinity;
            live_b = maximum == infinity && lse_b == infinity;
            a = b = 1.0F;
            total = live_a && live_b ? 2.0F : 1.0F;
            lse = maximum;
            return;
        }
        live_a = lse_a != -infinity;
        live_b = lse_b != -infinity;
        a = expf(lse_a - maximum);
        b = expf(lse_b - maximum);
        total = a + b;
        lse = maximum + logf(total);
    }
};

__global__ void __launch_bounds__(32 * kWarps) merge_state(const __grid_constant__ MergeParams p) {
    const std::int64_t item = static_cast<std::int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32;
    const int lane = static_cast<int>(threadIdx.x % 32);
    const std::int64_t token = item / p.heads;
    const std::int64_t head = item % p.heads;
    if (token >= p.tokens || (p.num_tokens != nullptr && token >= *p.num_tokens)) return;
    const auto at = [&](const std::int64_t(&strides)[2]) { return token * strides[0] + head * strides[1]; };
    const Weights w(p.lse_a[at(p.lse_a_strides)], p.lse_b[at(p.lse_b_strides)]);
    __syncwarp();
    const int width = p.dtype == DType::f32 ? 4 : 2;
    const auto* const from_a = static_cast<const std::uint8_t*>(p.out_a) + at(p.a_strides) * width;
    const auto* const from_b = static_cast<const std::uint8_t*>(p.out_b) + at(p.b_strides) * width;
    auto* const to = static_cast<std::uint8_t*>(p.out) + at(p.out_strides) * width;
    for (int d = lane * codec::kChunk; d < p.dim; d += 32 * codec::kChunk) {
        const int count = min(codec::kChunk, p.dim - d);
        float a[codec::kChunk] = {};
        float b[codec::kChunk] = {};
        if (w.live_a) codec::load_chunk(from_a + d * width, p.dtype, count, p.vectors, a);
        if (w.live_b) codec::load_chunk(from_b + d * width, p.dtype, count, p.vectors, b);
#pragma unroll
        for (int i = 0; i < codec::kChunk; ++i)
            a[i] = ((w.live_a ? w.a * a[i] : 0.0F) + (w.live_b ? w.b * b[i] : 0.0F)) / w.total;
        codec::store_chunk(to + d * width, p.dtype, count, p.vectors, a);
    }
    if (lane == 0) p.lse[at(p.lse_strides)] = w.lse;
}

__device__ std::uint32_t merged_pair(std::uint32_t a, std::uint32_t b, float weight_a, float weight_b) {
    const auto sum = [&](std::uint32_t one, std::uint32_t other) {
        return weight_a * __uint_as_float(one) + weight_b * __uint_as_float(other);
    };
    const __nv_bfloat162 pair = __floats2bfloat162_rn(sum(a << 16, b << 16), sum(a & 0xFFFF0000U, b & 0xFFFF0000U));
    return *reinterpret_cast<const std::uint32_t*>(&pair);
}

/// The same for aligned bf16 rows: 1024 bytes of each side are on their way before the statistics are looked at. What a
/// dead side holds is replaced by zeros.
__global__ void __launch_bounds__(32 * kWarps) merge_bf16_rows(const __grid_constant__ MergeParams p) {
    constexpr int kDepth = 2;
    const std::uint32_t item = blockIdx.x * kWarps + threadIdx.x / 32;
    const int lane = static_cast<int>(threadIdx.x % 32);
    const std::int64_t token = item / static_cast<std::uint32_t>(p.heads);
    const std::int64_t head = item % static_cast<std::uint32_t>(p.heads);
    if (token >= p.tokens || (p.num_tokens != nullptr && token >= *p.num_tokens)) return;
    const auto at = [&](const std::int64_t(&strides)[2]) { return token * strides[0] + head * strides[1]; };
    const auto* const from_a = static_cast<const std::uint8_t*>(p.out_a) + at(p.a_strides) * 2;
    const auto* const from_b = static_cast<const std::uint8_t*>(p.out_b) + at(p.b_strides) * 2;
    auto* const to = static_cast<std::uint8_t*>(p.out) + at(p.out_strides) * 2;
    const float lse_a = p.lse_a[at(p.lse_a_strides)];
    const float lse_b = p.lse_b[at(p.lse_b_strides)];
    __syncwarp();
    const int chunks = p.dim / codec::kChunk;
    for (int first = lane; first < chunks; first += 32 * kDepth) {
        uint4 a[kDepth] = {};
        uint4 b[kDepth] = {};
#pragma unroll
        for (int i = 0; i < kDepth; ++i) {
            if (first + 32 * i >= chunks) continue;
            a[i] = *reinterpret_cast<const uint4*>(from_a + (first + 32 * i) * 16);
            b[i] = *reinterpret_cast<const uint4*>(from_b + (first + 32 * i) * 16);
        }
        const Weights w(lse_a, lse_b);
        const float weight_a = w.live_a ? w.a / w.total : 0.0F;
        const float weight_b = w.live_b ? w.b / w.total : 0.0F;
#pragma unroll
        for (int i = 0; i < kDepth; ++i) {
            if (first + 32 * i >= chunks) continue;
            if (!w.live_a) a[i] = {};
            if (!w.live_b) b[i] = {};
            *reinterpret_cast<uint4*>(to + (first + 32 * i) * 16) = {
                merged_pair(a[i].x, b[i].x, weight_a, weight_b), merged_pair(a[i].y, b[i].y, weight_a, weight_b),
                merged_pair(a[i].z, b[i].z, weight_a, weight_b), merged_pair(a[i].w, b[i].w, weight_a, weight_b)};
        }
    }
    if (lane == 0) p.lse[at(p.lse_strides)] = Weights(lse_a, lse_b).lse;
}

bool fast(const MergeParams& p) {
    return p.dtype == DType::bf16 && p.vectors && p.dim % codec::kChunk == 0 &&
           p.tokens * p.heads < (std::int64_t{1} << 31);
}

}  // namespace

cudaError_t launch_merge(const MergeParams& params, cudaStream_t stream) {
    const std::int64_t blocks = (params.tokens * params.heads + kWarps - 1) / kWarps;
    const auto kernel = fast(params) ? merge_bf16_rows : merge_state;
    kernel<<<static_cast<unsigned>(blocks), 32 * kWarps, 0, stream>>>(params);
    return cudaGetLastError();
}

}  // namespace tokamak::mla::cuda
