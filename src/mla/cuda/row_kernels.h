// SPDX-License-Identifier: Apache-2.0
// Launches of the three operators that move rows: plain data in, so that kernels and host code compile apart.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "tokamak/kv_format.h"

namespace tokamak::mla::cuda {

/// A paged cache as kernels see it.
struct CacheParams {
    KvFormat format = KvFormat::bf16;
    std::uint8_t* values = nullptr;
    std::uint8_t* scales = nullptr;      ///< of row 0; null where the format keeps none apart from the row
    std::int64_t page_stride = 0;        ///< bytes
    std::int64_t scale_page_stride = 0;  ///< bytes
    std::int64_t pages = 0;
    std::int64_t page_size = 1;
    std::int64_t dim = 0;
    std::int32_t row_bytes = 0;
    std::int32_t scale_row_bytes = 0;
    bool vector_values = false;  ///< rows start at multiples of 16 bytes
};

CacheParams cache_params(const KvCache& cache);

struct GatherParams {
    CacheParams cache;
    const std::int32_t* positions;
    const std::int32_t* block_table;  ///< null: positions are slots
    const std::int32_t* num_tokens;
    void* out;
    std::int64_t position_stride, table_stride, table_columns, out_token_stride, out_row_stride;
    std::int64_t tokens;
    std::int32_t top_k;
    DType out_dtype;
    bool vector_out;
};
cudaError_t launch_gather(const GatherParams& params, cudaStream_t stream);

struct WriteParams {
    CacheParams cache;
    const void* kv;
    const void* slots;
    const std::int32_t* num_tokens;
    std::int64_t kv_stride, slot_stride, tokens;
    DType kv_dtype;
    bool wide_slots;  ///< i64
    bool exact_scale;
    bool vector_kv;
};
cudaError_t launch_write(const WriteParams& params, cudaStream_t stream);

struct MergeParams {
    const void* out_a;
    const void* out_b;
    void* out;
    const float* lse_a;
    const float* lse_b;
    float* lse;
    const std::int32_t* num_tokens;
    std::int64_t a_strides[2], b_strides[2], out_strides[2];  ///< token, head
    std::int64_t lse_a_strides[2], lse_b_strides[2], lse_strides[2];
    std::int64_t tokens;
    std::int32_t heads, dim;
    DType dtype;
    bool vectors;
};
cudaError_t launch_merge(const MergeParams& params, cudaStream_t stream);

}  // namespace tokamak::mla::cuda
