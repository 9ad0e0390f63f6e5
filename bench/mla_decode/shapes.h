// SPDX-License-Identifier: Apache-2.0
// Problems of the decode benchmark with their data: pools far larger than the L2 cache and several sets of indices, so
// that rows come from memory.
#pragma once

#include <string>
#include <vector>

#include "tokamak/mla/sparse_attention.h"

namespace tokamak::bench {

struct DecodeShape {
    std::string name;
    KvFormat format = KvFormat::bf16;
    int heads = 0;
    std::vector<int> top_k;  ///< one per pool
};

std::vector<DecodeShape> decode_shapes();

/// A shape at a token count on the device.
class DecodeData {
  public:
    DecodeData(const DecodeShape& shape, std::int64_t tokens, int index_sets);

    [[nodiscard]] const mla::SparseAttentionProblem& problem() const { return problem_; }
    [[nodiscard]] mla::SparseAttentionArgs args(int index_set) const;
    [[nodiscard]] double bytes() const;  ///< of one call: rows, queries, outputs, indices
    [[nodiscard]] double flops() const;

  private:
    DecodeShape shape_;
    std::int64_t tokens_;
    mla::SparseAttentionProblem problem_;
    std::vector<KvCache> caches_;
    std::vector<OwnedTensor> memory_;
    std::vector<Tensor> lengths_;               ///< [pool]
    std::vector<std::vector<Tensor>> indices_;  ///< [set][pool]
    Tensor q_, out_, lse_;
};

}  // namespace tokamak::bench
