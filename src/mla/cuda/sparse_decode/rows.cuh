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
    const std::uint8_t* values;  ///< an address to compute with, also if the row is masked
    const std::uint8_t* scales;  ///< null: bf16
    bool valid;
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
    const bool valid = s.index >= 0 && s.page >= 0 && s.page < pool.pages;
    const std::int64_t page = valid ? s.page : 0;
    const std::int64_t row = valid ? s.index % pool.page_size : 0;
    return {pool.values + page * pool.page_stride + row * pool.row_bytes,
            pool.scales == nullptr ? nullptr : pool.scales + page * pool.scale_page_stride + row * pool.scale_row_bytes,
            valid};
}

/// The rows of one block after another, as the lane that copies them sees them: row lane / 4 of its warp's eight. The
/// index is read two blocks ahead of its use, the page one. Rows past the last column are masked.
class RowStream {
  public:
    __device__ __forceinline__ RowStream(const Params& params, const Columns& columns, int token, int warp, int lane)
        : params_(params), columns_(columns), token_(token), column_(columns.first + warp * 8 + lane / 4) {
        ahead_ = load_index(params_, columns_, token_, column_);
        load_page(params_, token_, ahead_);
        far_ = load_index(params_, columns_, token_, column_ + kRowBlock);
    }

    __device__ __forceinline__ Row next() {
        const Row row = locate(params_, ahead_);
        ahead_ = far_;
        load_page(params_, token_, ahead_);
        column_ += kRowBlock;
        far_ = load_index(params_, columns_, token_, column_ + kRowBlock);
        return row;
    }

  private:
    const Params& params_;
    const Columns& columns_;
    int token_;
    int column_;
    Selected ahead_, far_;
};

/// Notes which of a warp's rows take part in block `block`; lane 4 r speaks for row r.
template <class Control>
__device__ __forceinline__ void note_rows(Control& control, const Row& row, int block, int warp, int lane) {
    const unsigned valid = __ballot_sync(~0U, row.valid);
    const unsigned bits = __ballot_sync(~0U, lane < 8 && (valid >> (4 * lane & 31) & 1U) != 0);
    if (lane == 0) control.valid[block % kMaskDepth][warp] = static_cast<std::uint8_t>(bits);
}

__device__ __forceinline__ Row row_of_lane(const Row& own, int lane) {
    const auto pointer = [lane](const std::uint8_t* p) {
        return reinterpret_cast<const std::uint8_t*>(__shfl_sync(~0U, reinterpret_cast<unsigned long long>(p), lane));
    };
    return {pointer(own.values), pointer(own.scales), __shfl_sync(~0U, static_cast<int>(own.valid), lane) != 0};
}

}  // namespace tokamak::mla::cuda::sparse_decode
