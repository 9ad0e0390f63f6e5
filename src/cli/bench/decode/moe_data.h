// SPDX-License-Identifier: Apache-2.0
// Device data of an MoE layer for benchmarks: several layers' weights, and several sets of ids.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <utility>
#include <vector>

#include "cli/bench/decode/fill.h"
#include "cli/bench/decode/options.h"
#include "cli/bench/report.h"

namespace tokamak::cli::bench {

inline constexpr int kMoeSets = 32;  ///< of ids for each routing
inline constexpr int kLongSets = 4;  ///< of them for calls of more than kSetTokens tokens
inline constexpr std::int64_t kSetTokens = 1024;

/// Sets that calls of so many tokens find.
constexpr int sets_for(std::int64_t tokens) noexcept { return tokens > kSetTokens ? kLongSets : kMoeSets; }

inline constexpr std::int64_t kPoolBytes = std::int64_t{8} << 30;

/// Memory for weights that all shapes share, one after another.
class WeightPool {
  public:
    explicit WeightPool(Device device, std::int64_t bytes = kPoolBytes);
    [[nodiscard]] std::uint8_t* data() const noexcept { return memory_.as<std::uint8_t>(); }
    [[nodiscard]] std::size_t bytes() const noexcept { return memory_.view().bytes(); }

  private:
    OwnedTensor memory_;
};

/// Those experts of one token that the rank has (the first `local` of all), renumbered from 0 on, so that only their
/// matrices come to the host.
struct LocalExperts {
    OwnedTensor ids;                    ///< i32 [1, top_k], global
    OwnedTensor map;                    ///< i32 [experts]
    std::vector<std::int64_t> experts;  ///< global ids by local number; may be none
};
LocalExperts local_experts(const Tensor& ids, std::int64_t token, int experts, int local);

/// Layers of a shape in a format, as many as the pool holds, and inputs.
class MoeData {
  public:
    MoeData(const Lane& lane, const WeightPool& pool, const MoeCase& layer);

    [[nodiscard]] const MoeCase& layer() const noexcept { return layer_; }
    /// Makes inputs and output for calls of that many tokens, where there were fewer. Those of fewer tokens are the
    /// first of them, whatever was reserved.
    void reserve(std::int64_t tokens);
    /// A call of set `set` on that set's layer.
    [[nodiscard]] moe::FusedMoeArgs args(Routing routing, std::int64_t tokens, int set);
    /// Active experts of this rank of the first `device_tokens` tokens, mean over the first `sets` sets.
    [[nodiscard]] double active(Routing routing, std::int64_t device_tokens, int sets);
    /// Routes to this rank's experts, counted in the same way.
    [[nodiscard]] double local_routes(Routing routing, std::int64_t device_tokens, int sets);
    [[nodiscard]] double expert_bytes() const noexcept { return expert_bytes_; }
    [[nodiscard]] const Tensor& out() const noexcept { return out_; }
    /// i32 [1] on the device.
    [[nodiscard]] Tensor count(std::int64_t tokens);
    /// Compares what set 0 gave with the oracle at sampled tokens.
    [[nodiscard]] Distance check(const Tensor& out, Routing routing, std::int64_t device_tokens);

  private:
    /// Of one set, the first `tokens` of them in both places.
    struct Ids {
        std::vector<std::int32_t> host;
        OwnedTensor device;  ///< i32 [tokens, top_k]
    };
    Ids& ids(Routing routing, int set);
    [[nodiscard]] std::span<const std::int32_t> host_ids(Routing routing, int set, std::int64_t tokens);
    [[nodiscard]] const OwnedTensor& oracle(Routing routing, std::int64_t token);
    [[nodiscard]] OwnedTensor compute_oracle(Routing routing, std::int64_t token);

    Lane lane_;
    MoeCase layer_;
    int local_;  ///< experts of this rank
    std::int64_t max_tokens_ = 0;
    std::uint8_t* weights_;
    std::size_t layers_ = 1;
    std::size_t layer_bytes_ = 0;
    double expert_bytes_ = 0;
    OwnedTensor x_, routing_weights_, gate_up_bias_, down_bias_, out_;
    std::map<std::pair<Routing, int>, Ids> ids_;
    std::map<std::int64_t, OwnedTensor> counts_;
    std::map<std::pair<Routing, std::int64_t>, OwnedTensor> oracles_;  ///< f64 [1, hidden] of a token of set 0
};

/// The first and largest errors that a whole layer or a GEMM may have: roundings of the output, of the activations
/// between the GEMMs and of dequantised weights to bf16, each about 1.1e-3 in the norm, plus float sums. With e4m3
/// activations a value near the border of two codes may fall on either side.
Distance moe_limit(const MoeCase& layer);

}  // namespace tokamak::cli::bench
