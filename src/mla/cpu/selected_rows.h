// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>

#include "mla/paging.h"
#include "tokamak/mla/sparse_attention.h"

namespace tokamak::mla::cpu {

/// A row that takes part in a token's softmax.
struct SelectedRow {
    const KvCache* cache;
    std::int64_t slot;
};

/// The columns of one pool that a token looks at, translated to physical slots.
class PoolColumns {
  public:
    PoolColumns(const KvPool& pool, const KvPoolArgs& args, std::int64_t token) noexcept
        : pool_(pool), args_(args), length_(pool.top_k) {
        if (args.lengths.present)
            length_ = std::clamp<std::int64_t>(args.lengths.as<std::int32_t>()[token * args.lengths.stride(0)], 0,
                                               pool.top_k);
        if (args.indices.present) indices_ = args.indices.as<std::int32_t>() + token * args.indices.stride(0);
        if (args.block_table.present)
            table_ = {args.block_table.as<std::int32_t>() + token * args.block_table.stride(0),
                      args.block_table.size(1)};
    }

    [[nodiscard]] std::int64_t length() const noexcept { return length_; }
    [[nodiscard]] std::int32_t index(std::int64_t column) const noexcept { return indices_[column]; }
    /// kMasked if the column takes no part.
    [[nodiscard]] std::int64_t slot(std::int64_t column) const noexcept {
        return physical_slot(indices_[column], pool_.page_size, pool_.rows, table_);
    }
    [[nodiscard]] const KvCache& cache() const noexcept { return args_.cache; }

  private:
    const KvPool& pool_;
    const KvPoolArgs& args_;
    std::int64_t length_;
    const std::int32_t* indices_ = nullptr;
    BlockTable table_;
};

/// Walks through the valid columns of a token, first pool first. Masked columns leave no trace: which rows share a
/// block, and so every bit of the result, depends on the valid ones only.
class SelectedRows {
  public:
    SelectedRows(const SparseAttentionProblem& problem, const SparseAttentionArgs& args, std::int64_t token) noexcept
        : problem_(problem), args_(args), token_(token) {}

    /// Fills `block` from its beginning; returns how many rows there were, 0 at the end.
    std::int64_t next(std::span<SelectedRow> block) noexcept {
        std::size_t count = 0;
        while (pool_ < problem_.pools.size() && count < block.size()) {
            const PoolColumns columns(problem_.pools[pool_], args_.pools[pool_], token_);
            for (; column_ < columns.length() && count < block.size(); ++column_) {
                const std::int64_t slot = columns.slot(column_);
                if (slot != kMasked) block[count++] = {&columns.cache(), slot};
            }
            if (column_ < columns.length()) break;
            column_ = 0;
            ++pool_;
        }
        return static_cast<std::int64_t>(count);
    }

  private:
    const SparseAttentionProblem& problem_;
    const SparseAttentionArgs& args_;
    std::int64_t token_;
    std::size_t pool_ = 0;
    std::int64_t column_ = 0;
};

}  // namespace tokamak::mla::cpu
