// SPDX-License-Identifier: Apache-2.0
// The rows of a split: which columns, and where their rows are. What a block asks for first is in the first line of the
// parameters; the next lines come while indices are on their way.
#pragma once

#include "mla/cuda/paired_decode/instances.h"
#include "mla/cuda/paired_decode/shape.cuh"

namespace tokamak::mla::cuda::paired_decode {

/// Which token, heads and share of the rows a block has. Of a grid, x are the splits, which are a cluster, y the head
/// groups, z the tokens; more tokens than a grid has go on in y.
struct Place {
    int token, first_head, rank;
};
[[nodiscard]] __device__ __forceinline__ Place place_of() {
    const int group = static_cast<int>(blockIdx.y);
    return {group / kMostGroups * kMostTokens + static_cast<int>(blockIdx.z), group % kMostGroups * kHeads,
            static_cast<int>(blockIdx.x)};
}

/// The columns of a share if all lengths are full.
[[nodiscard]] __device__ __forceinline__ Columns full_columns(const FirstRead& first, int rank) {
    const int total = first.top_k[0] + first.top_k[1];
    const int begin = min(total, rank * first.share);
    return {begin, min(total, begin + first.share), first.top_k[0]};
}

/// The columns of a share that count.
class LiveColumns {
  public:
    /// Asks for the length of the first pool.
    __device__ __forceinline__ LiveColumns(const FirstRead& first, int token) : length_(first.top_k[0]) {
        if (first.pools[0].lengths != nullptr) length_ = first.pools[0].lengths[token * first.pools[0].length_stride];
    }

    template <bool Split>
    [[nodiscard]] __device__ __forceinline__ Columns of(const Params& params, int token, int rank) const {
        const FirstRead& first = params.first;
        const int in_first = max(0, min(length_, first.top_k[0]));
        int total = in_first;
        // A loop that stays one: what a branch needs of the parameters would be read before it.
#pragma unroll 1
        for (int pool = 1; pool < (first.top_k[1] > 0 ? 2 : 1); ++pool) {
            int length = first.top_k[pool];
            if (first.pools[pool].lengths != nullptr)
                length = first.pools[pool].lengths[token * first.pools[pool].length_stride];
            total += max(0, min(length, first.top_k[pool]));
        }
        if (!Split) return {0, total, in_first};
        if (total == first.top_k[0] + first.top_k[1]) return full_columns(first, rank);
        const int share = (over_splits(params, total + params.splits - 1) + 7) / 8 * 8;
        const int begin = min(total, rank * share);
        return {begin, min(total, begin + share), in_first};
    }

  private:
    int length_;
};

/// The rows of a warp, 16 of every block. Its lanes find the rows of two blocks at once, each lane one: lane l row
/// l % 16 of block l / 16 of a pair. Indices are read a pair ahead of their use.
class PairRows {
    static constexpr int kStep = 2 * kRowBlock;  ///< columns from a pair to the next

  public:
    /// Asks for the first indices. `row`: of this lane, in a block.
    __device__ __forceinline__ void start(const Params& params, const Columns& columns, int token, int row, int lane) {
        columns_ = columns;
        column_ = columns.first + lane / kPerWarp * kRowBlock + row;
        now_ = ask(params, token, column_);
        next_ = ask(params, token, column_ + kStep);
    }

    /// Finds the rows of the pair whose indices were read last.
    __device__ __forceinline__ void find(const Params& params, int token) {
        if (columns_.last <= columns_.in_first_pool && params.pools[0].block_table == nullptr)
            return find(params.pools[0]);
        load_page(params, token, now_);
        const Row row = locate(params, now_);
        own_ = row.values;
        valid_ = __ballot_sync(~0U, row.valid);
    }
    /// Goes on to the next pair.
    __device__ __forceinline__ void turn(const Params& params, int token) {
        now_ = next_;
        column_ += kStep;
        next_ = ask(params, token, column_ + kStep);
    }

    /// Row r of a block of the pair, for any lane.
    [[nodiscard]] __device__ __forceinline__ const std::uint8_t* values(int buffer, int r) const {
        return reinterpret_cast<const std::uint8_t*>(
            __shfl_sync(~0U, reinterpret_cast<unsigned long long>(own_), buffer * kPerWarp + r));
    }
    /// Bit r: row r of the block takes part.
    [[nodiscard]] __device__ __forceinline__ unsigned valid(int buffer) const {
        return valid_ >> buffer * kPerWarp & ((1U << kPerWarp) - 1);
    }

  private:
    /// All of them in one pool, which has no block table: few instructions, as the first rows wait for these.
    __device__ __forceinline__ void find(const PoolParams& pool) {
        const int index = now_.index;
        const int page = page_of(pool, index);
        const bool valid = index >= 0 && index < pool.rows && page < pool.pages;
        const int row = index - page * pool.page_size;
        own_ = pool.values + (valid ? page : 0) * pool.page_stride + std::int64_t{valid ? row : 0} * pool.row_bytes;
        valid_ = __ballot_sync(~0U, valid);
    }

    [[nodiscard]] __device__ __forceinline__ Selected ask(const Params& params, int token, int column) const {
        Selected s;
        if (column >= columns_.last) return s;
        s.pool = column < columns_.in_first_pool ? 0 : 1;
        const FirstRead::Pool& pool = params.first.pools[s.pool];
        s.index = pool.indices[token * pool.index_stride + (column - (s.pool == 0 ? 0 : columns_.in_first_pool))];
        return s;
    }

    Columns columns_;
    int column_;
    Selected now_, next_;
    const std::uint8_t* own_;
    unsigned valid_;
};

}  // namespace tokamak::mla::cuda::paired_decode
