// SPDX-License-Identifier: Apache-2.0
#include "mla/mla_cases.h"

#include <algorithm>

namespace tokamak::test {
namespace {

using mla::LseBase;

void add_formats(std::vector<AttentionCase>& cases) {
    cases.push_back({.name = "bf16_576"});
    cases.push_back({.name = "bf16_512_value_448", .dim = 512, .value_dim = 448});
    cases.push_back({.name = "bf16_64", .heads = 2, .dim = 64, .value_dim = 64});
    cases.push_back({.name = "fp8_656", .pools = {{.format = KvFormat::fp8_656}}});
    cases.push_back({.name = "fp8_656_f32_scales", .pools = {{.format = KvFormat::fp8_656, .odd_scales = true}}});
    cases.push_back({.name = "fp8_584", .dim = 512, .pools = {{.format = KvFormat::fp8_584}}});
    cases.push_back({.name = "fp8_584_padded_pages",
                     .dim = 512,
                     .value_dim = 448,
                     .pools = {{.format = KvFormat::fp8_584, .page_size = 53, .page_gap = 320}}});
    cases.push_back({.name = "fp8_split", .dim = 512, .pools = {{.format = KvFormat::fp8_split, .page_gap = 24}}});
    cases.push_back({.name = "mxfp4", .dim = 128, .value_dim = 96, .pools = {{.format = KvFormat::mxfp4}}});
}

void add_shapes(std::vector<AttentionCase>& cases) {
    for (const int heads : {1, 3, 7, 16, 33, 64, 65, 128})
        cases.push_back(
            {.name = "heads_" + std::to_string(heads), .tokens = 2, .heads = heads, .dim = 64, .value_dim = 64});
    for (const int top_k : {0, 1, 63, 64, 65, 133, 300})
        cases.push_back(
            {.name = "top_k_" + std::to_string(top_k), .dim = 64, .value_dim = 64, .pools = {{.top_k = top_k}}});
    for (const int page : {1, 2, 53, 61, 576})
        cases.push_back({.name = "page_" + std::to_string(page),
                         .dim = 512,
                         .pools = {{.format = KvFormat::fp8_584, .pages = 3, .page_size = page, .table = true}}});
    cases.push_back({.name = "value_dim_1", .dim = 128, .value_dim = 1});
    cases.push_back({.name = "value_dim_37", .dim = 192, .value_dim = 37});
    cases.push_back({.name = "one_token", .tokens = 1, .heads = 128, .pools = {{.pages = 20, .top_k = 200}}});
    cases.push_back(
        {.name = "more_columns_than_rows", .pools = {{.pages = 1, .page_size = 5, .top_k = 90, .masked = 0.0}}});
    cases.push_back({.name = "empty_pool", .dim = 64, .value_dim = 64, .pools = {{.pages = 0}}});
}

void add_pools(std::vector<AttentionCase>& cases) {
    cases.push_back({.name = "lengths", .tokens = 9, .dim = 64, .value_dim = 64, .pools = {{.lengths = true}}});
    cases.push_back({.name = "table", .tokens = 5, .dim = 64, .value_dim = 64, .pools = {{.table = true}}});
    cases.push_back(
        {.name = "shared_table", .dim = 64, .value_dim = 64, .pools = {{.table = true, .shared_table = true}}});
    cases.push_back({.name = "two_pools",
                     .tokens = 6,
                     .dim = 512,
                     .pools = {{.format = KvFormat::fp8_584, .page_size = 64, .top_k = 128, .lengths = true},
                               {.format = KvFormat::fp8_584, .page_size = 2, .top_k = 77, .lengths = true}},
                     .sinks = Sinks::random});
    cases.push_back({.name = "two_pools_of_two_formats",
                     .dim = 512,
                     .value_dim = 448,
                     .pools = {{.format = KvFormat::bf16, .table = true},
                               {.format = KvFormat::fp8_split, .page_size = 3, .top_k = 20, .lengths = true}}});
    cases.push_back(
        {.name = "second_pool_all_masked", .dim = 64, .value_dim = 64, .pools = {{}, {.top_k = 64, .masked = 1.0}}});
    cases.push_back({.name = "first_pool_all_masked",
                     .dim = 64,
                     .value_dim = 64,
                     .pools = {{.top_k = 200, .masked = 1.0}, {.top_k = 5}}});
    cases.push_back({.name = "mostly_masked", .dim = 64, .value_dim = 64, .pools = {{.top_k = 500, .masked = 0.97}}});
}

void add_conventions(std::vector<AttentionCase>& cases) {
    for (const bool empty : {false, true}) {
        for (const LseBase base : {LseBase::natural, LseBase::two}) {
            for (const bool include : {false, true})
                cases.push_back({.name = std::string("sinks_") + (empty ? "empty_" : "") +
                                         (base == LseBase::two ? "base2_" : "natural_") + (include ? "in" : "out"),
                                 .heads = 6,
                                 .dim = 64,
                                 .value_dim = 64,
                                 .sinks = Sinks::mixed_infinities,
                                 .convention = {base, include, include},
                                 .every_row_empty = empty});
        }
    }
    cases.push_back({.name = "empty_without_sink", .dim = 64, .value_dim = 64, .every_row_empty = true});
    cases.push_back({.name = "sink_in_max_only",
                     .dim = 64,
                     .value_dim = 64,
                     .sinks = Sinks::random,
                     .convention = {LseBase::natural, false, true}});
}

void add_types(std::vector<AttentionCase>& cases) {
    for (const DType q : {DType::bf16, DType::f16, DType::f32})
        for (const DType out : {DType::bf16, DType::f16, DType::f32})
            cases.push_back({.name = std::string("q_") + to_string(q) + "_out_" + to_string(out),
                             .dim = 128,
                             .value_dim = 128,
                             .q_dtype = q,
                             .out_dtype = out});
    cases.push_back({.name = "f32_any_dim",
                     .heads = 7,
                     .dim = 40,
                     .value_dim = 33,
                     .pools = {{.format = KvFormat::f32}},
                     .q_dtype = DType::f32,
                     .out_dtype = DType::f32});
    cases.push_back({.name = "strided",
                     .dim = 64,
                     .value_dim = 64,
                     .pools = {{.table = true, .lengths = true, .page_gap = 40}},
                     .strided = true,
                     .spare_rows = 2});
    cases.push_back({.name = "no_tokens", .tokens = 0, .dim = 64, .value_dim = 64, .spare_rows = 3});
}

}  // namespace

std::vector<AttentionCase> attention_cases() {
    std::vector<AttentionCase> cases;
    add_formats(cases);
    add_shapes(cases);
    add_pools(cases);
    add_conventions(cases);
    add_types(cases);
    return cases;
}

void check_attention(const AttentionCase& c, Device device, const PlanOptions& options, Accumulation accumulation,
                     bool max_logits) {
    AttentionData data(c);
    check_attention(data, device, options, accumulation, max_logits);
}

void check_attention(AttentionData& data, Device device, const PlanOptions& options, Accumulation accumulation,
                     bool max_logits) {
    const AttentionCase& c = data.spec;
    SCOPED_TRACE(c.name + ", seed " + std::to_string(data.seed) + (max_logits ? "" : ", without max_logits"));
    const auto plan = mla::make_plan(data.problem(), device, options);
    const OwnedWorkspace workspace = poisoned_workspace(plan.workspace(), device, 0xFF);
    mla::SparseAttentionArgs args = data.args(device);
    if (!max_logits) args.max_logits = {};
    mla::run(plan, args, workspace);
    synchronize(device);
    data.fetch(c.tokens);
    const AttentionExpected expected = data.expected();
    Tolerance tolerance;
    for (const PoolCase& pool : c.pools) {
        const Tolerance of_pool = out_tolerance(pool.format, accumulation, c.out_dtype);
        if (of_pool.relative >= tolerance.relative) tolerance = of_pool;
    }
    expect_close(data.out.host(), expected.out, tolerance, "out");
    Tolerance of_lse = lse_tolerance(accumulation);
    of_lse.absolute = std::max(of_lse.absolute, c.lse_absolute);
    expect_close(data.lse.host(), expected.lse, of_lse, "lse");
    if (max_logits)
        expect_close(data.max_logits.host(), expected.max_logits, lse_tolerance(accumulation), "max_logits");
}

}  // namespace tokamak::test
