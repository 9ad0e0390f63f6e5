// SPDX-License-Identifier: Apache-2.0
// From a column of a token's selection to the address of a row.
#pragma once

#include "mla/cuda/sparse_decode/shared.cuh"

namespace tokamak::mla::cuda::sparse_decode {

/// The columns that this block works on: [first, last) of the token's columns, first pool first.
struct Columns {
    int first, last;
    int in_first_pool;
};

__device__ __forceinline__ int live_columns(const PoolParams& pool, int token) {
    if (pool.lengths == nullptr) return pool.top_k;
    return max(0, min(pool.lengths[token * pool.length_stride], pool.top_k));
}

/// Share of split `rank`; a multiple of 8 columns, so that shares differ little.
__device__ __forceinline__ Columns columns_of(const Params& params, int token, int rank) {
    const int in_first = live_columns(params.pools[0], token);
    const int total = in_first + live_columns(params.pools[1], token);
    const int share = ((total + params.splits - 1) / params.splits + 7) / 8 * 8;
    const int first = min(total, rank * share);
    return {first, min(total, first + share), in_first};
}

/// A column on its way to an address: its index, then its page.
struct Selected {
    int index = -1;
    int page = -1;
    int pool = 0;
};

struct Row {
    const std::uint8_t* values = nullptr;  ///< null: masked
    const std::uint8_t* scales = nullptr;  ///< null: bf16
};

__device__ __forceinline__ Selected load_index(const Params& params, const Columns& columns, int token, int column) {
    Selected s;
    if (column >= columns.last) return s;
    s.pool = column < columns.in_first_pool ? 0 : 1;
    const PoolParams& pool = params.pools[s.pool];
    s.index = pool.indices[token * pool.index_stride + (column - (s.pool == 0 ? 0 : columns.in_first_pool))];
    return s;
}

/// Second step, separate so that the read of the block table is under way while other work is done.
__device__ __forceinline__ void load_page(const Params& params, int token, Selected& s) {
    if (s.index < 0) return;
    const PoolParams& pool = params.pools[s.pool];
    const int page = s.index / pool.page_size;
    if (pool.block_table == nullptr)
        s.page = s.index < pool.rows ? page : -1;
    else
        s.page = page < pool.table_columns ? pool.block_table[token * pool.table_stride + page] : -1;
}

__device__ __forceinline__ Row locate(const Params& params, const Selected& s) {
    const PoolParams& pool = params.pools[s.pool];
    if (s.index < 0 || s.page < 0 || s.page >= pool.pages) return {};
    const int row = s.index % pool.page_size;
    const std::int64_t page = s.page;
    return {pool.values + page * pool.page_stride + static_cast<std::int64_t>(row) * pool.row_bytes,
            pool.scales == nullptr
                ? nullptr
                : pool.scales + page * pool.scale_page_stride + static_cast<std::int64_t>(row) * pool.scale_row_bytes};
}

/// Starts the copy of `Bytes` bytes, or of zeros. Sources with an alignment below 4 are copied at once.
template <int Bytes>
__device__ __forceinline__ void copy_piece(std::uint32_t shared, const std::uint8_t* source, int copy_bytes) {
    const bool valid = source != nullptr;
    if (Bytes == 16 && copy_bytes == 16) return ptx::copy_16(shared, source, valid);
    if (copy_bytes >= 8) {
#pragma unroll
        for (int i = 0; i < Bytes; i += 8) ptx::copy_small<8>(shared + i, source + i, valid);
    } else if (copy_bytes == 4) {
#pragma unroll
        for (int i = 0; i < Bytes; i += 4) ptx::copy_small<4>(shared + i, source + i, valid);
    } else {
        for (int i = 0; i < Bytes; ++i) {
            const unsigned value = valid ? source[i] : 0;
            asm volatile("st.shared.u8 [%0], %1;" ::"r"(shared + i), "r"(value) : "memory");
        }
    }
}

}  // namespace tokamak::mla::cuda::sparse_decode
