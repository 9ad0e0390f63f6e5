// SPDX-License-Identifier: Apache-2.0
// Selected rows of a paged cache, decoded. A block resolves a tile of rows, then its threads take chunks of eight
// values wherever they lie, so that row widths need not fit a warp.
#include "mla/cuda/gather_lines.cuh"

namespace tokamak::mla::cuda {
namespace {

constexpr int kRows = 32;
constexpr int kThreads = 256;

__device__ CacheRow selected_row(const GatherParams& p, std::int64_t token, int column) {
    const std::int64_t position = p.positions[token * p.position_stride + column];
    if (position < 0 || p.block_table == nullptr) return cache_row(p.cache, position);
    const std::int64_t logical = position / p.cache.page_size;
    if (logical >= p.table_columns) return {};
    const std::int64_t page = p.block_table[token * p.table_stride + logical];
    if (page < 0) return {};
    return cache_row(p.cache, page * p.cache.page_size + position % p.cache.page_size);
}

__global__ void __launch_bounds__(kThreads) paged_gather(const __grid_constant__ GatherParams p) {
    __shared__ CacheRow rows[kRows];
    __shared__ std::int64_t outs[kRows];  ///< element offset; -1: nothing to write
    const std::int64_t tokens =
        p.num_tokens == nullptr ? p.tokens : min(p.tokens, static_cast<std::int64_t>(max(0, *p.num_tokens)));
    const std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * kRows;
    if (first >= tokens * p.top_k) return;
    if (threadIdx.x < kRows) {
        const std::int64_t item = first + threadIdx.x;
        const std::int64_t token = item / p.top_k;
        const int column = static_cast<int>(item % p.top_k);
        const bool live = token < tokens;
        rows[threadIdx.x] = live ? selected_row(p, token, column) : CacheRow{};
        outs[threadIdx.x] = live ? token * p.out_token_stride + column * p.out_row_stride : -1;
    }
    __syncthreads();
    const int dim = static_cast<int>(p.cache.dim);
    const int chunks = (dim + codec::kChunk - 1) / codec::kChunk;
    const int width = p.out_dtype == DType::f32 ? 4 : 2;
#pragma unroll 4
    for (int i = threadIdx.x; i < kRows * chunks; i += kThreads) {
        const int r = i / chunks;
        const int d = (i - r * chunks) * codec::kChunk;
        const int count = min(codec::kChunk, dim - d);
        if (outs[r] < 0) break;
        float v[codec::kChunk] = {};
        if (rows[r].values != nullptr) read_chunk(p.cache, rows[r], d, count, v);
        codec::store_chunk(static_cast<std::uint8_t*>(p.out) + (outs[r] + d) * width, p.out_dtype, count, p.vector_out,
                           v);
    }
}

using Kernel = void (*)(GatherParams);

/// Rows from which on whole lines are the faster (16384 rows: 8.0 us, 8.15 without; 2048 rows: 3.4 and 2.9).
constexpr std::int64_t kManyRows = 16384;

/// The kernel for aligned rows into bf16; null where there is none.
Kernel fast_kernel(const GatherParams& p) {
    if (p.out_dtype != DType::bf16 || !p.vector_out || !p.cache.vector_values || !fast::small_pages(p.cache))
        return nullptr;
    const bool vector_scales =
        (reinterpret_cast<std::uintptr_t>(p.cache.scales) | static_cast<std::uintptr_t>(p.cache.scale_page_stride)) %
            8 ==
        0;
    switch (p.cache.format) {
        case KvFormat::bf16: return p.cache.dim % codec::kChunk == 0 ? &fast::gather_bf16_rows : nullptr;
        case KvFormat::fp8_656: return &fast::gather_fp8_rows<KvFormat::fp8_656>;
        case KvFormat::fp8_584:
        case KvFormat::fp8_split:
            if (!vector_scales) return nullptr;
            return p.tokens * p.top_k < kManyRows ? &fast::gather_fp8_rows<KvFormat::fp8_584> : &fast::gather_fp8_lines;
        default: return nullptr;
    }
}

}  // namespace

cudaError_t launch_gather(const GatherParams& params, cudaStream_t stream) {
    if (const Kernel kernel = fast_kernel(params)) {
        constexpr int rows = fast::kGatherRows * fast::kGatherWarps;
        const std::int64_t blocks = (params.tokens * params.top_k + rows - 1) / rows;
        cudaLaunchAttribute attribute{};
        attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
        attribute.val.programmaticStreamSerializationAllowed = 1;
        cudaLaunchConfig_t config{};
        config.gridDim = dim3(static_cast<unsigned>(blocks));
        config.blockDim = dim3(32 * fast::kGatherWarps);
        config.stream = stream;
        config.attrs = &attribute;
        config.numAttrs = 1;
        return cudaLaunchKernelEx(&config, kernel, params);
    }
    const std::int64_t blocks = (params.tokens * params.top_k + kRows - 1) / kRows;
    paged_gather<<<static_cast<unsigned>(blocks), kThreads, 0, stream>>>(params);
    return cudaGetLastError();
}

}  // namespace tokamak::mla::cuda
