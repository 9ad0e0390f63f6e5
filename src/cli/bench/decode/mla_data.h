// SPDX-License-Identifier: Apache-2.0
// Device data of sparse MLA for benchmarks: caches far larger than the L2, and sets of indices into them.
#pragma once

#include <cstdint>
#include <map>
#include <vector>

#include "cli/bench/decode/bench.h"

namespace tokamak::cli::bench {

/// A paged cache in device memory, filled by write_kv with normally distributed rows.
class DeviceCache {
  public:
    DeviceCache(const DecodeBench& bench, KvFormat format, std::int64_t dim, std::int64_t page_size, std::int64_t rows);
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

/// A shape in a format: one cache per pool, queries for up to `max_tokens` tokens.
class MlaData {
  public:
    MlaData(const DecodeBench& bench, const MlaCase& attention, std::int64_t max_tokens);

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

    const DecodeBench& bench_;
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
