// SPDX-License-Identifier: Apache-2.0
#include "tokamak/moe.h"

#include "cli/conformance/experts.h"
#include "cli/conformance/runners.h"

namespace tokamak::cli::conformance {
namespace {

struct AlignOutputs {
    Tensor sorted_token_ids;
    Tensor expert_ids;
    Tensor num_tokens_post_padded;
};

AlignOutputs align(CaseContext& context, const moe::AlignProblem& problem, const Tensor& ids, const Tensor& map,
                   const std::string& prefix) {
    const moe::AlignSizes sizes = moe::align_sizes(problem, problem.max_tokens);
    context.agree("pad_id", sizes.pad_id);
    context.agree(prefix + "max_pad", sizes.max_padded);
    context.agree(prefix + "max_blocks", sizes.max_blocks);
    const AlignOutputs outputs{context.allocate(DType::i32, {sizes.max_padded}),
                               context.allocate(DType::i32, {sizes.max_blocks}), context.allocate(DType::i32, {1})};
    moe::AlignArgs args;
    args.tokens = problem.max_tokens;
    args.ids = ids;
    args.expert_map = map;
    args.sorted_token_ids = outputs.sorted_token_ids;
    args.expert_ids = outputs.expert_ids;
    args.num_tokens_post_padded = outputs.num_tokens_post_padded;
    context.run_operator(problem, args);
    return outputs;
}

/// The fixed-shape outputs, and the truncated list of experts.
void produce_align(CaseContext& context, const AlignOutputs& outputs, int block_size) {
    context.produce("sorted_token_ids", outputs.sorted_token_ids);
    context.produce("expert_ids_full", outputs.expert_ids);
    context.produce("num_tokens_post_padded", outputs.num_tokens_post_padded);
    const std::int64_t used = *OwnedTensor::copy_of(outputs.num_tokens_post_padded).as<std::int32_t>();
    const std::int64_t blocks = used / block_size;
    if (used < 0 || used % block_size != 0 || blocks > outputs.expert_ids.size(0))
        fail(ErrorCode::internal, "moe::align: num_tokens_post_padded is {}, expected a multiple of {} for {} blocks",
             used, block_size, outputs.expert_ids.size(0));
    context.produce("expert_ids", outputs.expert_ids.first_rows(blocks));
}

moe::AlignProblem align_problem(CaseContext& context, const Tensor& ids) {
    context.agree("M", ids.size(0));
    context.agree("top_k", ids.size(1));
    moe::AlignProblem problem;
    problem.max_tokens = ids.size(0);
    problem.top_k = static_cast<int>(ids.size(1));
    problem.num_experts = static_cast<int>(context.integer("num_experts"));
    problem.block_size = static_cast<int>(context.integer("block_size", 1));
    problem.ids_dtype = ids.dtype;
    return problem;
}

/// Token rows, ids and routing weights of the two MoE operators.
struct Routed {
    Tensor x;
    Tensor ids;
    Tensor weights;
    std::int64_t tokens = 0;
    int top_k = 0;
    bool weighted = true;
};

Routed routed_inputs(CaseContext& context) {
    Routed routed;
    routed.x = context.input("A", 2);
    routed.ids = context.input("topk_ids", 2);
    routed.weighted = context.boolean_or("mul_routed_weight", true);
    if (context.has("topk_w")) routed.weights = context.input_as_f32("topk_w");
    routed.tokens = routed.x.size(0);
    routed.top_k = static_cast<int>(routed.ids.size(1));
    context.agree("M", routed.tokens);
    context.agree("top_k", routed.top_k);
    return routed;
}

moe::FusedMoeProblem mxfp4_problem(CaseContext& context, const Routed& routed, std::int64_t intermediate) {
    moe::FusedMoeProblem problem;
    problem.max_tokens = routed.tokens;
    problem.hidden = routed.x.size(1);
    problem.intermediate = intermediate;
    problem.top_k = routed.top_k;
    problem.weights = WeightSpec::mxfp4();
    const auto limit = static_cast<float>(context.number_or("swiglu_limit", 0));
    problem.activation = limit > 0 ? moe::Activation::swiglu_clamped(limit) : moe::Activation::swiglu();
    problem.routing_weight = routed.weighted ? moe::RoutingWeight::output : moe::RoutingWeight::none;
    problem.act_dtype = routed.x.dtype;
    return problem;
}

/// The rank's slice of a bias [experts, width], on the device.
Tensor rank_bias(CaseContext& context, const char* name, const Rank& rank) {
    if (!context.has(name)) return {};
    const Tensor bias = context.host_input(name, 2);
    if (bias.size(0) < rank.first + rank.count)
        broken("input \"{}\" is {}, expected {} experts", name, to_string(bias), rank.first + rank.count);
    Tensor slice = rank.count > 0 ? bias.at(rank.first) : bias;
    return context.to_device(Tensor(slice.data, bias.dtype, {rank.count, bias.size(1)}));
}

}  // namespace

void run_align(CaseContext& context) {
    const Tensor ids = context.input("topk_ids", 2);
    const moe::AlignProblem problem = align_problem(context, ids);
    produce_align(context, align(context, problem, ids, {}, ""), problem.block_size);
}

void run_align_ep(CaseContext& context) {
    const Tensor ids = context.input("topk_ids", 2);
    const Tensor map = context.input("expert_map", 1);
    moe::AlignProblem problem = align_problem(context, ids);
    context.agree("num_experts", map.size(0));
    problem.num_global_experts = static_cast<int>(map.size(0));
    problem.num_experts = static_cast<int>(context.integer("e_local"));
    produce_align(context, align(context, problem, ids, map, ""), problem.block_size);
    problem.non_local = moe::NonLocal::ghost;
    const AlignOutputs ghost = align(context, problem, ids, map, "ghost_");
    context.produce("ghost_sorted_token_ids", ghost.sorted_token_ids);
    context.produce("ghost_expert_ids_full", ghost.expert_ids);
    context.produce("ghost_num_tokens_post_padded", ghost.num_tokens_post_padded);
}

void run_fused_moe_int4(CaseContext& context) {
    const Routed routed = routed_inputs(context);
    const StackedMatrices source{context.host_input("packed", 3), context.host_input("scale", 3)};
    moe::RoutedGemmProblem problem;
    problem.max_tokens = routed.tokens;
    problem.rows = source.values.size(1);
    problem.cols = routed.x.size(1);
    problem.top_k = routed.top_k;
    problem.weights = WeightSpec::int4(static_cast<int>(context.integer("group_size")), source.scales.dtype);
    if (const Support known = valid(problem.weights); !known) skip("int4 weights: {}", known.reason);
    problem.apply_routing_weight = routed.weighted;
    problem.act_dtype = routed.x.dtype;
    context.agree("E", source.values.size(0));
    context.agree("N", problem.rows);
    context.agree("K", problem.cols);
    run_ranks(context, source.values.size(0), [&](const Rank& rank, DType out_dtype) {
        problem.num_experts = static_cast<int>(rank.global_experts);
        problem.num_local_experts = static_cast<int>(rank.count);
        problem.out_dtype = out_dtype;
        moe::RoutedGemmArgs args;
        args.tokens = routed.tokens;
        args.x = routed.x;
        args.ids = routed.ids;
        args.weights = routed.weights;
        args.matrix = pack_experts(context, moe::matrix_layout(problem), source, RowOrder::plain, rank);
        args.expert_map = rank.expert_map;
        args.out = context.allocate(out_dtype, {routed.tokens, problem.rows});
        context.run_operator(problem, args);
        return args.out;
    });
}

void run_fused_moe_mxfp4(CaseContext& context) {
    const Routed routed = routed_inputs(context);
    const StackedMatrices gate_up{context.host_input("w13", 3), context.host_input("w13_scale", 3)};
    const StackedMatrices down{context.host_input("w2", 3), context.host_input("w2_scale", 3)};
    if (context.integer_or("group_size", 32) != 32) skip("mxfp4 groups other than 32");
    moe::FusedMoeProblem problem = mxfp4_problem(context, routed, gate_up.values.size(1) / 2);
    context.agree("E", gate_up.values.size(0));
    context.agree("hidden", problem.hidden);
    context.agree("ispp", problem.intermediate);
    run_ranks(context, gate_up.values.size(0), [&](const Rank& rank, DType out_dtype) {
        problem.num_experts = static_cast<int>(rank.global_experts);
        problem.num_local_experts = static_cast<int>(rank.count);
        problem.out_dtype = out_dtype;
        moe::FusedMoeArgs args;
        args.tokens = routed.tokens;
        args.x = routed.x;
        args.ids = routed.ids;
        args.weights = routed.weights;
        args.gate_up =
            pack_experts(context, moe::gate_up_layout(problem), gate_up, RowOrder::gate_up_concatenated, rank);
        args.down = pack_experts(context, moe::down_layout(problem), down, RowOrder::plain, rank);
        args.gate_up_bias = rank_bias(context, "b13", rank);
        args.down_bias = rank_bias(context, "b2", rank);
        args.expert_map = rank.expert_map;
        args.out = context.allocate(out_dtype, {routed.tokens, problem.hidden});
        context.run_operator(problem, args);
        return args.out;
    });
}

void run_sum_reduce(CaseContext& context) {
    moe::SumReduceArgs args;
    args.y = context.input("y", 3);
    if (context.has("w")) args.weights = context.input_as_f32("w");
    args.tokens = args.y.size(0);
    moe::SumReduceProblem problem;
    problem.max_tokens = args.tokens;
    problem.top_k = static_cast<int>(args.y.size(1));
    problem.hidden = args.y.size(2);
    problem.routed_scaling_factor = static_cast<float>(context.number_or("routed_scaling_factor", 1.0));
    problem.dtype = args.y.dtype;
    args.out = context.allocate(problem.dtype, {args.tokens, problem.hidden});
    context.run_operator(problem, args);
    context.produce("out", args.out);
}

void run_topk_softmax(CaseContext& context) {
    moe::RouteArgs args;
    args.logits = context.input("gating_output", 2);
    args.tokens = args.logits.size(0);
    moe::RouteProblem problem;
    problem.max_tokens = args.tokens;
    problem.num_experts = static_cast<int>(args.logits.size(1));
    problem.top_k = static_cast<int>(context.integer("topk"));
    problem.renormalize = context.boolean_or("renormalize", true);
    problem.logits_dtype = args.logits.dtype;
    problem.weights_dtype = context.expected_dtype("topk_weights", DType::f32);
    problem.ids_dtype = context.expected_dtype("topk_ids", DType::i32);
    args.weights = context.allocate(problem.weights_dtype, {args.tokens, problem.top_k});
    args.ids = context.allocate(problem.ids_dtype, {args.tokens, problem.top_k});
    context.run_operator(problem, args);
    context.produce("topk_weights", args.weights);
    context.produce("topk_ids", args.ids);
}

}  // namespace tokamak::cli::conformance
