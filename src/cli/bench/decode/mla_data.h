// SPDX-License-Identifier: Apache-2.0
// Device data of sparse MLA for benchmarks: caches far larger than the L2, and sets of indices into them.
#pragma once

#include <cstdint>
#include <map>
#include <vector>

#include "cli/bench/decode/fill.h"
#include "cli/bench/decode/options.h"
#include "cli/bench/report.h"

namespace tokamak::cli::bench {

/// A paged cache in device memory, filled by write_kv with normally distributed rows.
class DeviceCache {
  public:
    DeviceCache(const Lane& lane, KvFormat format, std::int64_t dim, std::int64_t page_size, std::int64_t rows);
    [[nodiscard]] const KvCache& cache() const noexcept { return cache_; }

  private:
    OwnedTensor values_, scales_;
    KvCache cache_;
};

/// Some rows of a cache in host memory, a row per page.
struct HostRows {
    OwnedTensor values, scales;
    KvCache cache;
};
HostRows empty_rows(KvFormat format, std::int64_t dim, std::int64_t rows);
/// The bytes of these slots, as they are.
HostRows rows_to_host(const KvCache& cache, const std::vector<std::int64_t>& slots);

/// Bytes of a row with its scales.
double row_bytes(KvFormat format, std::int64_t dim);

inline constexpr std::int64_t kPoolRows = std::int64_t{1} << 22;  ///< of all pools of a shape: 2.4 to 4.8 GB
/// The result is rounded to bf16, as are probabilities (up to 2^-9 each); float sums.
inline constexpr Distance kMlaLimit{5e-3, 1.5e-2};

/// A shape in a format: one cache per pool, together of about `rows` rows, queries for up to `max_tokens` tokens.
class MlaData {
  public:
    MlaData(const Lane& lane, const MlaCase& attention, std::int64_t max_tokens, std::int64_t rows = kPoolRows);

    [[nodiscard]] const MlaCase& attention() const noexcept { return attention_; }
    [[nodiscard]] const mla::SparseAttentionProblem& problem() const noexcept { return problem_; }
    /// Sets of indices that calls of that many tokens find.
    [[nodiscard]] int sets(std::int64_t tokens) const;
    [[nodiscard]] mla::SparseAttentionArgs args(std::int64_t tokens, int set) const;
    [[nodiscard]] const Tensor& out() const noexcept { return out_; }
    [[nodiscard]] const Tensor& lse() const noexcept { return lse_; }
    /// Different rows, indices, queries and outputs of a call.
    [[nodiscard]] double bytes(std::int64_t tokens) const;
    [[nodiscard]] double flops(std::int64_t tokens) const;
    /// Compares some heads of sampled tokens of set 0 with the oracle.
    [[nodiscard]] Distance check(const Tensor& out, std::int64_t tokens);

  private:
    [[nodiscard]] const OwnedTensor& oracle(std::int64_t token);
    [[nodiscard]] OwnedTensor compute_oracle(std::int64_t token) const;
    [[nodiscard]] std::vector<std::int64_t> sampled_heads() const;

    Lane lane_;
    MlaCase attention_;
    std::int64_t max_tokens_;
    std::int64_t index_rows_;  ///< rows of each index array: set 0 first, the others packed after it
    mla::SparseAttentionProblem problem_;
    std::vector<DeviceCache> caches_;
    std::vector<OwnedTensor> indices_;  ///< i32 [index rows, top_k] per pool
    std::vector<OwnedTensor> lengths_;
    OwnedTensor q_, sink_, out_, lse_;
    std::map<std::int64_t, OwnedTensor> oracles_;  ///< f64 [sampled heads, value_dim] of a token
};

}  // namespace tokamak::cli::bench
