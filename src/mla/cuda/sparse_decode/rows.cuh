// SPDX-License-Identifier: Apache-2.0
// From a column of a token's selection to the address of a row.
#pragma once

#include "mla/cuda/sparse_decode/shared.cuh"

namespace tokamak::mla::cuda::sparse_decode {

/// The columns that this block works on: [first, last) of the token's columns, first pool first.
struct Columns {
    int first, last;
    int in_first_pool;
    [[nodiscard]] __device__ int blocks() const { return (last - first + kRowBlock - 1) / kRowBlock; }
};

__device__ __forceinline__ int live_columns(const PoolParams& pool, int token) {
    if (pool.lengths == nullptr) return pool.top_k;
    return max(0, min(pool.lengths[token * pool.length_stride], pool.top_k));
}

__device__ __forceinline__ int over_splits(const Params& params, int n) {
    return static_cast<int>(__umulhi(static_cast<std::uint32_t>(n) * 2, params.split_magic) >> params.split_shift);
}

/// Share of split `rank`; a multiple of 8 columns, so that shares differ little.
__device__ __forceinline__ Columns columns_of(const Params& params, int token, int rank) {
    const int in_first = live_columns(params.pools[0], token);
    const int total = in_first + live_columns(params.pools[1], token);
    const int share = (over_splits(params, total + params.splits - 1) + 7) / 8 * 8;
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

__device__ __forceinline__ int page_of(const PoolParams& pool, int index) {
    return static_cast<int>(__umulhi(static_cast<std::uint32_t>(index) * 2, pool.page_magic) >> pool.page_shift);
}

/// Second step, separate so that the read of the block table is under way while other work is done.
__device__ __forceinline__ void load_page(const Params& params, int token, Selected& s) {
    if (s.index < 0) return;
    const PoolParams& pool = params.pools[s.pool];
    const int page = page_of(pool, s.index);
    if (pool.block_table == nullptr)
        s.page = s.index < pool.rows ? page : -1;
    else
        s.page = page < pool.table_columns ? pool.block_table[token * pool.table_stride + page] : -1;
}

__device__ __forceinline__ Row locate(const Params& params, const Selected& s) {
    const PoolParams& pool = params.pools[s.pool];
    const bool valid = s.index >= 0 && s.page >= 0 && s.page < pool.pages;
    const std::int64_t page = valid ? s.page : 0;
    const std::int64_t row = valid ? s.index - page_of(pool, s.index) * pool.page_size : 0;
    return {pool.values + page * pool.page_stride + row * pool.row_bytes,
            pool.scales == nullptr ? nullptr : pool.scales + page * pool.scale_page_stride + row * pool.scale_row_bytes,
            valid};
}

/// The rows of a warp, `PerWarp` of every block. Its lanes find the rows of several blocks at once, each lane one: lane
/// l row l % PerWarp of block l / PerWarp of a group. Indices are read two groups ahead of their use, pages one. Rows
/// past the last column are masked. `Step`: columns from a block to the next.
template <int PerWarp, int Step = kRowBlock>
class RowStream {
  public:
    static constexpr int kBlocks = 32 / PerWarp;  ///< of a group

    /// Asks for the first indices. `row`: of this lane, in a block.
    __device__ __forceinline__ void start(const Params& params, const Columns& columns, int token, int row, int lane) {
        params_ = &params;
        columns_ = &columns;
        token_ = token;
        column_ = columns.first + lane / PerWarp * Step + row;
        near_ = load_index(params, columns, token, column_);
        far_ = load_index(params, columns, token, column_ + kBlocks * Step);
    }

    /// Between start and the first turn: waits for the first index.
    __device__ __forceinline__ void begin() { load_page(*params_, token_, near_); }

    /// Blocks are turned to one by one.
    __device__ __forceinline__ void turn(int block) {
        if (block % kBlocks != 0) return;
        own_ = locate(*params_, near_);
        valid_ = __ballot_sync(~0U, own_.valid);
        near_ = far_;
        load_page(*params_, token_, near_);
        column_ += kBlocks * Step;
        far_ = load_index(*params_, *columns_, token_, column_ + kBlocks * Step);
    }

    /// Of the group turned to: the row that this lane found, and whether it belongs to `block`.
    [[nodiscard]] __device__ __forceinline__ const Row& own() const { return own_; }
    [[nodiscard]] __device__ __forceinline__ static bool owns(int block, int lane) {
        return lane / PerWarp == block % kBlocks;
    }

    /// Row r of the block turned to last, for any lane.
    [[nodiscard]] __device__ __forceinline__ const std::uint8_t* values(int block, int r) const {
        return reinterpret_cast<const std::uint8_t*>(
            __shfl_sync(~0U, reinterpret_cast<unsigned long long>(own_.values), block % kBlocks * PerWarp + r));
    }
    [[nodiscard]] __device__ __forceinline__ Row row(int block, int r) const {
        const auto scales =
            __shfl_sync(~0U, reinterpret_cast<unsigned long long>(own_.scales), block % kBlocks * PerWarp + r);
        return {values(block, r), reinterpret_cast<const std::uint8_t*>(scales), (valid(block) >> r & 1U) != 0};
    }
    /// Bit r: row r of the block takes part.
    [[nodiscard]] __device__ __forceinline__ unsigned valid(int block) const {
        return valid_ >> block % kBlocks * PerWarp & ((1U << PerWarp) - 1);
    }

  private:
    const Params* params_;
    const Columns* columns_;
    int token_;
    int column_;
    Selected near_, far_;
    Row own_;
    unsigned valid_;
};

}  // namespace tokamak::mla::cuda::sparse_decode
