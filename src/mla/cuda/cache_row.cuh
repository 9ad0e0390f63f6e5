// SPDX-License-Identifier: Apache-2.0
// One row of a paged cache on the device: chunks of eight values read and written in any format.
#pragma once

#include "mla/cuda/codec.cuh"
#include "mla/cuda/row_kernels.h"

namespace tokamak::mla::cuda {

struct CacheRow {
    std::uint8_t* values = nullptr;  ///< null: no such row
    std::uint8_t* scales = nullptr;
};

/// Slots out of range give no row.
__device__ __forceinline__ CacheRow cache_row(const CacheParams& cache, std::int64_t slot) {
    if (slot < 0) return {};
    const std::int64_t page = slot / cache.page_size;
    if (page >= cache.pages) return {};
    const std::int64_t row = slot - page * cache.page_size;
    return {cache.values + page * cache.page_stride + row * cache.row_bytes,
            cache.scales + page * cache.scale_page_stride + row * cache.scale_row_bytes};
}

/// Dimensions that share a scale; 0: none.
__device__ __forceinline__ int scale_group(KvFormat format) {
    switch (format) {
        case KvFormat::fp8_656: return 128;
        case KvFormat::fp8_584:
        case KvFormat::fp8_split: return 64;
        case KvFormat::mxfp4: return 32;
        default: return 0;
    }
}

/// Where the bf16 tail of an fp8 row begins: its first dimension and its byte.
__device__ __forceinline__ int tail_dim(KvFormat format) { return format == KvFormat::fp8_656 ? 512 : 448; }
__device__ __forceinline__ int tail_byte(KvFormat format) { return format == KvFormat::fp8_656 ? 528 : 448; }

__device__ __forceinline__ float row_scale(const CacheRow& row, KvFormat format, int group) {
    if (format == KvFormat::fp8_656) return codec::load_bytes<float>(row.scales + group * 4, false);
    return format == KvFormat::mxfp4 ? codec::mxfp4_scale_to_float(row.scales[group])
                                     : codec::kv_scale_to_float(row.scales[group]);
}

/// Values [dim, dim + count) of a row, dim a multiple of 8.
__device__ __forceinline__ void read_chunk(const CacheParams& cache, const CacheRow& row, int dim, int count,
                                           float (&v)[codec::kChunk]) {
    const KvFormat format = cache.format;
    if (format == KvFormat::bf16)
        return codec::load_chunk(row.values + dim * 2, DType::bf16, count, cache.vector_values, v);
    if (format == KvFormat::f32)
        return codec::load_chunk(row.values + dim * 4, DType::f32, count, cache.vector_values, v);
    if (format == KvFormat::mxfp4) {
        const float scale = row_scale(row, format, dim / 32);
        const auto pairs = codec::load_bytes<std::uint32_t>(row.values + dim / 2, cache.vector_values);
#pragma unroll
        for (int i = 0; i < codec::kChunk; ++i) v[i] = codec::e2m1_to_float(pairs >> (4 * i) & 15U) * scale;
        return;
    }
    if (dim >= tail_dim(format))
        return codec::load_chunk(row.values + tail_byte(format) + (dim - tail_dim(format)) * 2, DType::bf16, count,
                                 cache.vector_values, v);
    const float scale = row_scale(row, format, dim / scale_group(format));
    const uint2 codes = codec::load_bytes<uint2>(row.values + dim, cache.vector_values);
#pragma unroll
    for (int i = 0; i < codec::kChunk; ++i)
        v[i] = codec::e4m3_to_float((i < 4 ? codes.x : codes.y) >> (i % 4 * 8) & 0xFFU) * scale;
}

}  // namespace tokamak::mla::cuda
