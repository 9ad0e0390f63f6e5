// SPDX-License-Identifier: Apache-2.0
// The parts of `bench moe`.
#pragma once

#include <vector>

#include "cli/bench/decode/bench.h"
#include "cli/bench/decode/moe_data.h"

namespace tokamak::cli::bench {

/// Whole layers: every call that moe_calls lists.
void bench_fused_moe(DecodeBench& bench, MoeData& data);
/// One call of a whole layer as `plan` runs it. `plan` and `data` live as long as the subject.
Subject moe_subject(const DecodeBench& bench, MoeData& data, const moe::FusedMoePlan& plan, const Workspace& workspace,
                    const DecodeCall& call);
/// The down projection of the layer by itself.
void bench_routed_gemm(DecodeBench& bench, MoeData& data);
/// Routing tables and the sum over a token's experts, in the sizes of a shape.
void bench_align(DecodeBench& bench, const MoeShape& shape);
void bench_sum_reduce(DecodeBench& bench, const WeightPool& pool, const MoeShape& shape);
/// The calls of a replay, as many as keep the L2 cold; set 0, which can be checked, is the last.
std::vector<moe::FusedMoeArgs> uniform_calls(const DecodeBench& bench, MoeData& data, std::int64_t tokens);
/// What routing in the call costs: the layer from logits beside the layer from ids.
void bench_from_logits(DecodeBench& bench, MoeData& data);
/// What clearing accumulators costs, one layer and 61 of them.
void bench_clearing(DecodeBench& bench, const WeightPool& pool);
/// What clearing the output costs the wide kernel's atomic combine, in pairs of replays at 16 to 512 rows of an expert.
void bench_clearing_pairs(DecodeBench& bench, MoeData& data);

/// What every row of an MoE operator starts with.
template <class Plan>
ResultRow moe_row(const Plan& plan, const std::string& shape, const std::string& format, std::int64_t tokens) {
    ResultRow row;
    row.op = plan.op();
    row.shape = shape;
    row.format = format;
    row.tokens = tokens;
    row.variant = plan.row_for(tokens).variant;
    row.decode = DecodeFacts{};
    row.decode->source = plan.row_for(tokens).source;
    row.decode->device_tokens = tokens;
    return row;
}

}  // namespace tokamak::cli::bench
