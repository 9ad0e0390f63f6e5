// SPDX-License-Identifier: Apache-2.0
// The rows of a share. Which columns a share has depends on nothing that is read, so that indices and lengths are asked
// for at once; a column counts only if its pool's length says so.
#pragma once

#include "mla/cuda/sparse_decode/first_read.cuh"
#include "mla/cuda/wide_decode/shape.cuh"

namespace tokamak::mla::cuda::wide_decode {

/// Columns [first, last) of the columns that a token has at most.
struct Share {
    int first, last;
};

__device__ __forceinline__ Share share_of(const Params& params, int rank) {
    const int total = params.first.top_k[0] + params.first.top_k[1];
    const int first = min(total, rank * params.first.share);
    return {first, min(total, first + params.first.share)};
}

/// Columns of a token that count, by pool.
struct Live {
    int first, second;
};

__device__ __forceinline__ Live live_of(const Params& params, int token) {
    return {live_columns(params.first, 0, token),
            params.first.top_k[1] == 0 ? 0 : live_columns(params.first, 1, token)};
}

/// Rows of a share up to the last one that counts.
__device__ __forceinline__ int rows_of(const Params& params, const Share& share, const Live& live) {
    const int end = live.second > 0 ? params.first.top_k[0] + live.second : live.first;
    return max(0, min(share.last, end) - share.first);
}
__device__ __forceinline__ int blocks_of(int rows) { return (rows + kRowBlock - 1) / kRowBlock; }

/// The rows of a warp, 16 of every block of 64. Its lanes find the rows of two blocks at once, each lane one: lane l
/// row l % 16 of block l / 16 of a pair of blocks. Indices are read two pairs ahead of their use, pages one.
template <int Dim>
class ShareRows {
    static constexpr int kPerWarp = 16;
    static constexpr int kBlocks = 2;       ///< of a group
    static constexpr int kScaleByte = 512;  ///< of rows of 576, which have their scales behind their codes

  public:
    /// Asks for the first indices and the lengths. `row`: of this lane, in a block.
    __device__ __forceinline__ void start(const Params& params, const PoolParams* pools, int token, int rank, int row,
                                          int lane) {
        params_ = &params;
        pools_ = pools;
        token_ = token;
        const Share share = share_of(params, rank);
        last_ = share.last;
        column_ = share.first + lane / kPerWarp * kRowBlock + row;
        near_ = load(column_);
        far_ = load(column_ + kBlocks * kRowBlock);
        live_ = live_of(params, token);
    }
    [[nodiscard]] __device__ __forceinline__ const Live& live() const { return live_; }

    /// In place of begin and the first turn, with fewer instructions between the first index and the first copy: what
    /// a row is found by is read while the index is under way.
    __device__ __forceinline__ void turn_first() {
        PoolParams pool = read_pool(pools_ + near_.pool);
        int column = in_pool(near_.pool, column_);
        asm volatile("" : "+r"(column));
        const bool table = pool.block_table != nullptr;
        const auto size = static_cast<std::int64_t>(pool.page_size);
        const int live = near_.pool == 0 ? live_.first : live_.second;
        const int index = near_.index;
        const int virtual_page = page_of(pool, index);
        int page = virtual_page;
        bool valid = index >= 0 && column < live;
        if (table) {
            const bool inside = valid && virtual_page < pools_[near_.pool].table_columns;
            page = inside ? pool.block_table[token_ * pools_[near_.pool].table_stride + virtual_page] : -1;
        } else {
            valid = valid && index < pool.rows;
        }
        valid = valid && page >= 0 && page < pool.pages;
        const int row = valid ? index - static_cast<int>(virtual_page * size) : 0;
        page = valid ? page : 0;
        own_.values = pool.values + std::int64_t{page} * pool.page_stride + std::int64_t{row} * pool.row_bytes;
        own_.valid = valid;
        if constexpr (Dim == 576)
            own_.scales = own_.values + kScaleByte;
        else
            own_.scales = pool.scales + std::int64_t{page} * pools_[near_.pool].scale_page_stride +
                          std::int64_t{row} * pools_[near_.pool].scale_row_bytes;
        valid_ = __ballot_sync(~0U, valid);
    }

    /// Between start and the first turn: waits for the first index.
    __device__ __forceinline__ void begin() { ask_page(near_, column_); }

    /// Blocks are turned to one by one.
    __device__ __forceinline__ void turn(int block) {
        if (block % kBlocks != 0) return;
        own_ = locate(near_);
        valid_ = __ballot_sync(~0U, own_.valid);
    }

    /// For the next pair, behind the copies of a block.
    __device__ __forceinline__ void prepare(int block) {
        if (block % kBlocks != 0) return;
        near_ = far_;
        column_ += kBlocks * kRowBlock;
        ask_page(near_, column_);
        far_ = load(column_ + kBlocks * kRowBlock);
    }

    /// Of the pair turned to: the row that this lane found, and whether it belongs to `block`.
    [[nodiscard]] __device__ __forceinline__ const Row& own() const { return own_; }
    [[nodiscard]] __device__ __forceinline__ static bool owns(int block, int lane) {
        return lane / kPerWarp == block % kBlocks;
    }
    /// Row r of the block turned to last, for any lane.
    [[nodiscard]] __device__ __forceinline__ const std::uint8_t* values(int block, int r) const {
        return reinterpret_cast<const std::uint8_t*>(
            __shfl_sync(~0U, reinterpret_cast<unsigned long long>(own_.values), block % kBlocks * kPerWarp + r));
    }
    /// Of the pair turned to last: bit 16 b + r, row r of its block b takes part.
    [[nodiscard]] __device__ __forceinline__ unsigned all_valid() const { return valid_; }
    /// Bit r: row r of the block takes part.
    [[nodiscard]] __device__ __forceinline__ unsigned valid(int block) const {
        return valid_ >> block % kBlocks * kPerWarp & ((1U << kPerWarp) - 1);
    }

  private:
    /// The first 64 bytes, in shared memory.
    [[nodiscard]] __device__ __forceinline__ static PoolParams read_pool(const PoolParams* from) {
        PoolParams pool;
        auto* const words = reinterpret_cast<uint4*>(&pool);
        const std::uint32_t at = ptx::shared_address(from);
#pragma unroll
        for (int i = 0; i < 4; ++i) words[i] = load_shared_16(at + 16 * i);
        return pool;
    }
    [[nodiscard]] __device__ __forceinline__ int in_pool(int pool, int column) const {
        return column - (pool == 0 ? 0 : params_->first.top_k[0]);
    }
    [[nodiscard]] __device__ __forceinline__ Selected load(int column) const {
        Selected s;
        if (column >= last_) return s;
        const FirstRead& first = params_->first;
        s.pool = column < first.top_k[0] ? 0 : 1;
        s.index = first.pools[s.pool].indices[token_ * first.pools[s.pool].index_stride + in_pool(s.pool, column)];
        return s;
    }
    __device__ __forceinline__ void ask_page(Selected& s, int column) const {
        if (in_pool(s.pool, column) >= (s.pool == 0 ? live_.first : live_.second)) s.index = -1;
        if (s.index < 0) return;
        const PoolParams& pool = pools_[s.pool];
        const int page = page_of(pool, s.index);
        if (pool.block_table == nullptr)
            s.page = s.index < pool.rows ? page : -1;
        else
            s.page = page < pool.table_columns ? pool.block_table[token_ * pool.table_stride + page] : -1;
    }

    [[nodiscard]] __device__ __forceinline__ Row locate(const Selected& s) const {
        const PoolParams& pool = pools_[s.pool];
        const bool valid = s.index >= 0 && s.page >= 0 && s.page < pool.pages;
        const std::int64_t page = valid ? s.page : 0;
        const int row = valid ? s.index - page_of(pool, s.index) * pool.page_size : 0;
        const std::uint8_t* const values = pool.values + page * pool.page_stride + std::int64_t{row} * pool.row_bytes;
        if constexpr (Dim == 576)
            return {values, values + kScaleByte, valid};
        else
            return {values, pool.scales + page * pool.scale_page_stride + std::int64_t{row} * pool.scale_row_bytes,
                    valid};
    }

    const Params* params_;
    const PoolParams* pools_;  ///< in shared memory
    int token_;
    int column_, last_;
    Live live_;
    Selected near_, far_;
    Row own_;
    unsigned valid_;
};

}  // namespace tokamak::mla::cuda::wide_decode
