// SPDX-License-Identifier: Apache-2.0
// Host side of the decode kernel that needs no device: which instance, how its shared memory is laid out, which way of
// forming teams fits a token count. Pure functions.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "moe/cuda/decode_args.h"

namespace tokamak::moe::cuda {

/// The instance for a weight format, and for fp8_block for quantised activations or others, if there is one.
std::optional<DecodeInstance> decode_instance(const WeightSpec& spec, bool quantized);
/// Its kernel that takes logits.
std::optional<DecodeInstance> decode_logits_instance(const WeightSpec& spec, bool quantized);
/// The same with rows gathered for each expert.
std::optional<DecodeInstance> gather_instance(const WeightSpec& spec, bool quantized);

/// A way to run an instance: its warps as so many teams.
struct DecodeVariant {
    /// E.g. "decode_n8_g2x4_d8x1": 2 teams of 4 warps for gate/up, 8 of one for down; "gather_n6_g2x4_d8x1": the same
    /// with up to 6 rows of an expert at a time.
    std::string name;
    int gate_up_teams = 0;
    int down_teams = 0;
    int slots = 0;       ///< of each warp's ring
    int group_rows = 0;  ///< gathered: most rows of an expert that are multiplied together; otherwise 0
    DecodeShared shared;
};

/// The variants whose shared memory fits into `shared_limit` bytes.
std::vector<DecodeVariant> decode_variants(const DecodeInstance& instance, const FusedMoeProblem& problem,
                                           std::size_t shared_limit);
/// Most tokens of a pass with gathered rows. Not of the plan's `max_tokens`: variants shall be the same for all plans
/// of a problem, so that rows of a table fit them.
std::int64_t gather_pass_tokens(const FusedMoeProblem& problem) noexcept;
/// The variants with gathered rows, with tables for passes of `pass_tokens`.
std::vector<DecodeVariant> gather_variants(const DecodeInstance& instance, const FusedMoeProblem& problem,
                                           std::int64_t pass_tokens, std::size_t shared_limit);
/// How often a call reads an expert's weights with groups of up to `group_rows` of its routes, in passes of
/// `pass_tokens`, for uniform routing: 1 where its rows always fit one group.
double expected_reads(const FusedMoeProblem& problem, std::int64_t tokens, std::int64_t pass_tokens, int group_rows);
/// Up to so many reads the gathered form is faster than the grouped kernel: in results/h200/tuning.json at 1.02
/// (dsv3-tp8, 128 tokens, 248 us and 264), no more at 1.09 (kimi-k2-e48, 32 tokens, 429 and 331) or 1.22 (136 tokens of
/// dsv3-tp8, two passes, 308 and 269).
inline constexpr double kMostGatherReads = 1.06;
/// Index of the variant whose teams suit a call of `tokens` on `sms` SMs best, for uniform routing.
std::size_t choose_variant(const DecodeInstance& instance, const std::vector<DecodeVariant>& variants,
                           const FusedMoeProblem& problem, int sms, std::int64_t tokens);
/// The same for variants with gathered rows.
std::size_t choose_gather_variant(const DecodeInstance& instance, const std::vector<DecodeVariant>& variants,
                                  const FusedMoeProblem& problem, std::int64_t tokens);

}  // namespace tokamak::moe::cuda
