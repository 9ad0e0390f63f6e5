// SPDX-License-Identifier: Apache-2.0
#include "cli/conformance/experts.h"

#include "cli/conformance/compare.h"

namespace tokamak::cli::conformance {
namespace {

constexpr std::int64_t kMaxRanks = 64;

Rank make_rank(CaseContext& context, std::int64_t first, std::int64_t count, const std::string& map_name) {
    Rank rank{first, count, context.optional_input(map_name, 1), count};
    if (rank.expert_map) rank.global_experts = rank.expert_map.size(0);
    return rank;
}

/// Sum over ranks of f32 results, rounded once to the dtype in which it is expected.
OwnedTensor sum_of(const std::vector<OwnedTensor>& partials, DType dtype) {
    const Tensor& first = partials.front();
    OwnedTensor sum = OwnedTensor::allocate(dtype, std::span(first.shape.data(), static_cast<std::size_t>(first.rank)));
    for (std::int64_t i = 0; i < first.elements(); ++i) {
        float total = 0;
        for (const OwnedTensor& partial : partials) total += partial.as<float>()[i];
        set_element(sum, i, total);
    }
    return sum;
}

void run_split(CaseContext& context, std::int64_t experts, std::int64_t ranks, const RankFunction& run_rank) {
    std::vector<OwnedTensor> unrounded;
    for (std::int64_t r = 0; r < ranks; ++r) {
        const std::string partial = fmt::format("partial_{}", r);
        const std::string map_name = fmt::format("expert_map_{}", r);
        if (!context.has(map_name)) broken("input \"{}\" is missing", map_name);
        const Rank rank = make_rank(context, r * (experts / ranks), experts / ranks, map_name);
        if (context.wants(partial))
            context.produce(partial, run_rank(rank, context.expected_dtype(partial, DType::bf16)));
        unrounded.push_back(OwnedTensor::copy_of(run_rank(rank, DType::f32)));
    }
    const DType dtype = context.expected_dtype("out", DType::bf16);
    context.produce("out", sum_of(unrounded, dtype), "sum of the partials");
}

}  // namespace

Tensor pack_experts(CaseContext& context, const PackedLayout& layout, const StackedMatrices& source, RowOrder order,
                    const Rank& rank) {
    if (source.values.size(0) < rank.first + rank.count || source.scales.size(0) != source.values.size(0))
        broken("weights {} and scales {} do not hold experts {} to {}", to_string(source.values),
               to_string(source.scales), rank.first, rank.first + rank.count - 1);
    const OwnedTensor packed =
        OwnedTensor::allocate(DType::u8, {rank.count, static_cast<std::int64_t>(layout.matrix_bytes)});
    for (std::int64_t e = 0; e < rank.count; ++e) {
        const WeightMatrix matrix{layout.spec, layout.rows, layout.cols, source.values.at(rank.first + e),
                                  source.scales.at(rank.first + e)};
        pack(layout, matrix, order, {packed.view().at(e).as<std::byte>(), layout.matrix_bytes});
    }
    return context.to_device(packed);
}

void run_ranks(CaseContext& context, std::int64_t experts, const RankFunction& run_rank) {
    const std::int64_t ranks = context.integer_or("ep_ranks", 1);
    if (ranks < 1 || ranks > kMaxRanks || experts % ranks != 0)
        broken("parameter \"ep_ranks\" is {}, expected a divisor of the {} experts", ranks, experts);
    const DType dtype = context.expected_dtype("out", DType::bf16);
    const Tensor out = run_rank(make_rank(context, 0, experts, "expert_map"), dtype);
    context.produce("out", out, ranks > 1 ? "all experts local" : "");
    if (ranks > 1) run_split(context, experts, ranks, run_rank);
}

}  // namespace tokamak::cli::conformance
