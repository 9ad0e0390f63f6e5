// SPDX-License-Identifier: Apache-2.0
// Plain KV rows of a case as the bf16 cache that sparse_attention takes.
//
// The caches hold bf16 and dimensions in multiples of 64; cases may hold f32 rows of any width. An f32 number is
// exactly the sum of three bf16 numbers, so such a row becomes one three times as wide: the parts of its value columns
// first (values are the leading columns), then those of the other columns, then zeros; q is repeated to match. Scores
// are the same sums, and adding the three parts of the result gives the value.
#pragma once

#include "cli/conformance/context.h"
#include "tokamak/kv_format.h"

namespace tokamak::cli::conformance {

class PlainRows {
  public:
    /// Takes the inputs `q` [T, H, D] and `kv` [rows, D].
    PlainRows(CaseContext& context, std::int64_t value_dim);

    [[nodiscard]] const Tensor& q() const noexcept { return q_; }
    [[nodiscard]] const KvCache& cache() const noexcept { return cache_; }
    [[nodiscard]] std::int64_t value_dim() const noexcept { return value_dim_ * parts_; }
    /// dtype in which the operator has to give its result, when the case expects `expected`.
    [[nodiscard]] DType out_dtype(DType expected) const noexcept { return parts_ == 1 ? expected : DType::f32; }
    /// Hands over `out`, its parts added.
    void produce_out(CaseContext& context, const Tensor& out) const;

  private:
    void widen(CaseContext& context, const Tensor& q, const Tensor& kv);

    std::int64_t value_dim_ = 0;
    int parts_ = 1;
    Tensor q_;
    KvCache cache_;
};

}  // namespace tokamak::cli::conformance
