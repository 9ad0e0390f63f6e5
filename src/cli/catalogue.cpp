// SPDX-License-Identifier: Apache-2.0
#include "cli/catalogue.h"

#include "cli/common.h"
#include "core/plan_state.h"
#include "tokamak/mla.h"
#include "tokamak/moe.h"

namespace tokamak::cli {
namespace {

constexpr std::int64_t kTokens = 64;
constexpr KvFormat kKvFormats[] = {KvFormat::bf16, KvFormat::fp8_656, KvFormat::fp8_584, KvFormat::fp8_split,
                                   KvFormat::mxfp4};

template <class Problem>
Offer ask(const Problem& problem, Device device) {
    if (auto reason = unavailable(device)) return {{}, *reason};
    if (Support support = supports(problem, device); !support) return {{}, support.reason};
    return {make_plan(problem, device).state().variants, {}};
}

template <class Problem>
void add(std::vector<CatalogueEntry>& entries, std::string op, std::string format, const Problem& problem) {
    entries.push_back({std::move(op), std::move(format), [problem](Device device) { return ask(problem, device); }});
}

const WeightSpec kWeightSpecs[] = {WeightSpec::bf16(),   WeightSpec::fp8_block(), WeightSpec::int4(32),
                                   WeightSpec::int4(64), WeightSpec::int4(128),   WeightSpec::mxfp4(),
                                   WeightSpec::nvfp4()};

void add_moe(std::vector<CatalogueEntry>& entries) {
    moe::RouteProblem route{.max_tokens = kTokens, .num_experts = 256, .top_k = 8};
    add(entries, "moe::route", "softmax", route);
    route.method = moe::RouteMethod::sigmoid_grouped;
    route.num_groups = 8;
    route.top_groups = 4;
    add(entries, "moe::route", "sigmoid_grouped", route);
    add(entries, "moe::align", "",
        moe::AlignProblem{.max_tokens = kTokens, .top_k = 8, .num_experts = 256, .block_size = 16});
    for (const WeightSpec& weights : kWeightSpecs)
        add(entries, "moe::routed_gemm", to_string(weights),
            moe::RoutedGemmProblem{
                .max_tokens = kTokens, .rows = 2048, .cols = 2048, .num_experts = 128, .top_k = 8, .weights = weights});
    for (const WeightSpec& weights : kWeightSpecs)
        add(entries, "moe::fused_moe", to_string(weights),
            moe::FusedMoeProblem{.max_tokens = kTokens,
                                 .hidden = 2048,
                                 .intermediate = 768,
                                 .num_experts = 128,
                                 .top_k = 8,
                                 .weights = weights,
                                 .activation = {}});
    add(entries, "moe::sum_reduce", "", moe::SumReduceProblem{.max_tokens = kTokens, .top_k = 8, .hidden = 2048});
}

void add_mla(std::vector<CatalogueEntry>& entries) {
    for (const KvFormat format : kKvFormats) {
        const std::int64_t dim = fixed_dim(format) > 0 ? fixed_dim(format) : 576;
        const mla::KvPool pool{.format = format, .rows = 65536, .page_size = 64, .top_k = 2048};
        add(entries, "mla::sparse_attention", to_string(format),
            mla::SparseAttentionProblem{
                .max_tokens = kTokens, .heads = 128, .dim = dim, .value_dim = 512, .pools = {pool}});
    }
    add(entries, "mla::merge_state", "", mla::MergeStateProblem{.max_tokens = kTokens, .heads = 128, .dim = 512});
    for (const KvFormat format : kKvFormats) {
        const std::int64_t dim = fixed_dim(format) > 0 ? fixed_dim(format) : 576;
        add(entries, "mla::paged_gather", to_string(format),
            mla::PagedGatherProblem{.max_tokens = kTokens, .top_k = 64, .format = format, .dim = dim, .page_size = 64});
        add(entries, "mla::write_kv", to_string(format),
            mla::WriteKvProblem{.max_tokens = kTokens, .format = format, .dim = dim, .page_size = 64});
    }
    add(entries, "mla::indexer", "",
        mla::IndexerProblem{.max_tokens = kTokens, .heads = 64, .dim = 128, .keys = 8192, .top_k = 2048});
}

}  // namespace

std::vector<CatalogueEntry> catalogue() {
    std::vector<CatalogueEntry> entries;
    add_moe(entries);
    add_mla(entries);
    return entries;
}

}  // namespace tokamak::cli
