// SPDX-License-Identifier: Apache-2.0
// New rows into a paged cache, a warp per row: lane l holds chunks l, l + 32, ... of eight values, so that the lanes of
// a scale group are neighbours.
#include "mla/cuda/write_fast.cuh"

namespace tokamak::mla::cuda {
namespace {

constexpr int kWarps = 8;
constexpr float kSmallestAmax = 1e-4F;  // as formats/kv_row.cpp
constexpr float kLargestE4m3 = 448.0F;

/// Largest finite magnitude of the chunks of `lanes` neighbouring lanes.
__device__ float group_maximum(const float (&v)[codec::kChunk], int lanes) {
    float largest = 0.0F;
#pragma unroll
    for (int i = 0; i < codec::kChunk; ++i)
        if (isfinite(v[i])) largest = fmaxf(largest, fabsf(v[i]));
    for (int step = 1; step < lanes; step *= 2) largest = fmaxf(largest, __shfl_xor_sync(~0U, largest, step));
    return largest;
}

__device__ std::uint32_t e8m0_code(int exponent) {
    return static_cast<std::uint32_t>(max(0, min(254, exponent + 127)));
}

/// Exponent of the smallest power of two that is not below a normal number.
__device__ int ceil_log2(float value) {
    const std::uint32_t bits = __float_as_uint(value);
    return static_cast<int>(bits >> 23) - 127 + ((bits & 0x7FFFFFU) != 0 ? 1 : 0);
}
/// floor(log2(value)), subnormals included.
__device__ int floor_log2(float value) { return ilogbf(value); }

/// A NaN keeps its sign, which a division would drop.
__device__ float scaled(float value, float scale) { return isnan(value) ? value : __fdiv_rn(value, scale); }

__device__ void write_fp8(const WriteParams& p, const CacheRow& row, int dim, bool lead, float largest,
                          const float (&v)[codec::kChunk]) {
    const KvFormat format = p.cache.format;
    const float exact = __fdiv_rn(fmaxf(largest, kSmallestAmax), kLargestE4m3);
    const std::uint32_t code = e8m0_code(ceil_log2(exact));
    const float scale = p.exact_scale ? exact : codec::kv_scale_to_float(code);
    std::uint32_t words[2] = {0, 0};
#pragma unroll
    for (int i = 0; i < codec::kChunk; ++i) words[i / 4] |= codec::float_to_e4m3(scaled(v[i], scale)) << (i % 4 * 8);
    codec::store_bytes(row.values + dim, uint2{words[0], words[1]}, p.cache.vector_values);
    if (!lead) return;
    if (format == KvFormat::fp8_656)
        codec::store_bytes(row.scales + dim / 128 * 4, scale, false);
    else
        row.scales[dim / 64] = static_cast<std::uint8_t>(code);
}

__device__ void write_mxfp4(const WriteParams& p, const CacheRow& row, int dim, bool lead, float largest,
                            const float (&v)[codec::kChunk]) {
    const std::uint32_t code = largest > 0.0F ? e8m0_code(floor_log2(largest) - 2) : 0;
    const float scale = codec::kv_scale_to_float(code);
    std::uint32_t word = 0;
#pragma unroll
    for (int i = 0; i < codec::kChunk; ++i) word |= codec::float_to_e2m1(scaled(v[i], scale)) << (4 * i);
    codec::store_bytes(row.values + dim / 2, word, p.cache.vector_values);
    if (lead) row.scales[dim / 32] = static_cast<std::uint8_t>(code);
}

__device__ void write_chunk(const WriteParams& p, const CacheRow& row, int dim, int count, float largest, int lanes,
                            const float (&v)[codec::kChunk]) {
    const KvFormat format = p.cache.format;
    const bool lead = lanes > 0 && dim / codec::kChunk % lanes == 0;
    if (format == KvFormat::bf16)
        return codec::store_chunk(row.values + dim * 2, DType::bf16, count, p.cache.vector_values, v);
    if (format == KvFormat::f32)
        return codec::store_chunk(row.values + dim * 4, DType::f32, count, p.cache.vector_values, v);
    if (format == KvFormat::mxfp4) return write_mxfp4(p, row, dim, lead, largest, v);
    if (dim < tail_dim(format)) return write_fp8(p, row, dim, lead, largest, v);
    codec::store_chunk(row.values + tail_byte(format) + (dim - tail_dim(format)) * 2, DType::bf16, count,
                       p.cache.vector_values, v);
}

__global__ void __launch_bounds__(32 * kWarps) write_kv(const __grid_constant__ WriteParams p) {
    const std::int64_t token = static_cast<std::int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32;
    const int lane = static_cast<int>(threadIdx.x % 32);
    if (token >= p.tokens || (p.num_tokens != nullptr && token >= *p.num_tokens)) return;
    const std::int64_t slot = p.wide_slots ? static_cast<const std::int64_t*>(p.slots)[token * p.slot_stride]
                                           : static_cast<const std::int32_t*>(p.slots)[token * p.slot_stride];
    const CacheRow row = cache_row(p.cache, slot);
    if (row.values == nullptr) return;
    const int dim = static_cast<int>(p.cache.dim);
    const int width = p.kv_dtype == DType::f32 ? 4 : 2;
    const auto* const kv = static_cast<const std::uint8_t*>(p.kv) + token * p.kv_stride * width;
    const int lanes = scale_group(p.cache.format) / codec::kChunk;
    for (int first = 0; first < dim; first += 32 * codec::kChunk) {
        const int d = first + lane * codec::kChunk;
        const int count = dim - d;  // not clamped: docs/kernels/compiler.md
        float v[codec::kChunk];
        codec::load_chunk(kv + d * width, p.kv_dtype, count, p.vector_kv, v);
        const float largest = lanes > 0 ? group_maximum(v, lanes) : 0.0F;
        if (count > 0) write_chunk(p, row, d, count, largest, lanes, v);
    }
    if (lane == 0 && (p.cache.format == KvFormat::fp8_584 || p.cache.format == KvFormat::fp8_split)) row.scales[7] = 0;
}

using Kernel = void (*)(WriteParams);

/// The kernel for aligned bf16 rows; null where there is none.
Kernel fast_kernel(const WriteParams& p) {
    if (p.kv_dtype != DType::bf16 || !p.vector_kv || !p.cache.vector_values || !fast::small_pages(p.cache))
        return nullptr;
    switch (p.cache.format) {
        case KvFormat::bf16: return p.cache.dim % codec::kChunk == 0 ? &fast::write_bf16_rows : nullptr;
        case KvFormat::fp8_656: return p.exact_scale ? nullptr : &fast::write_fp8_rows<KvFormat::fp8_656>;
        case KvFormat::fp8_584:
        case KvFormat::fp8_split: return &fast::write_fp8_rows<KvFormat::fp8_584>;
        default: return nullptr;
    }
}

}  // namespace

cudaError_t launch_write(const WriteParams& params, cudaStream_t stream) {
    if (const Kernel kernel = fast_kernel(params)) {
        const std::int64_t blocks = (params.tokens + fast::kRows - 1) / fast::kRows;
        kernel<<<static_cast<unsigned>(blocks), 32 * fast::kWarps, 0, stream>>>(params);
        return cudaGetLastError();
    }
    const std::int64_t blocks = (params.tokens + kWarps - 1) / kWarps;
    write_kv<<<static_cast<unsigned>(blocks), 32 * kWarps, 0, stream>>>(params);
    return cudaGetLastError();
}

}  // namespace tokamak::mla::cuda
