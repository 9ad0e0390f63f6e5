// SPDX-License-Identifier: Apache-2.0
#include "tokamak/mla.h"

#include "cli/conformance/compare.h"
#include "cli/conformance/plain_rows.h"
#include "cli/conformance/runners.h"

namespace tokamak::cli::conformance {
namespace {

/// The conventions of the cases: both statistics count the sink.
constexpr mla::LseConvention kWithSink{mla::LseBase::natural, true, true};

/// One f32 per head. A single number stands for every head; more than there are heads are cut off.
Tensor sink_input(CaseContext& context, int heads) {
    if (!context.has("attn_sink")) return {};
    const Tensor given = context.host_input("attn_sink");
    if (given.elements() != 1 && given.elements() < heads)
        broken("input \"attn_sink\" is {}, expected 1 or at least {} numbers", to_string(given), heads);
    const OwnedTensor sink = OwnedTensor::allocate(DType::f32, {heads});
    for (int h = 0; h < heads; ++h) set_element(sink, h, element(given, given.elements() == 1 ? 0 : h));
    return context.to_device(sink);
}

/// Tokens whose every column is masked.
std::vector<bool> dead_rows(CaseContext& context, std::int64_t pool_rows) {
    const Tensor indices = context.host_input("indices", 2);
    const Tensor lengths = context.has("topk_length") ? context.host_input("topk_length", 1) : Tensor();
    std::vector<bool> dead(static_cast<std::size_t>(indices.size(0)), true);
    for (std::int64_t i = 0; i < indices.elements(); ++i) {
        const std::int64_t token = i / indices.size(1);
        const bool inside = !lengths || (token < lengths.elements() && i % indices.size(1) < element(lengths, token));
        const double row = element(indices, i);
        if (inside && row >= 0 && row < static_cast<double>(pool_rows)) dead[static_cast<std::size_t>(token)] = false;
    }
    return dead;
}

/// Views [B, 1, ...] of the decode interface as [B, ...].
Tensor drop_sequence_dimension(const Tensor& tensor, int rank, const char* name) {
    if (tensor.rank == rank) return tensor;
    if (tensor.rank == rank + 1 && tensor.size(1) == 1) {
        if (rank == 2) return tensor.reshape({tensor.size(0), tensor.size(2)});
        return tensor.reshape({tensor.size(0), tensor.size(2), tensor.size(3)});
    }
    broken("input \"{}\" is {}, expected one query per sequence", name, to_string(tensor));
}

/// The first `page` rows of every page of a cache tensor [pages, rows per page, bytes].
Tensor paged_view(const Tensor& cache, std::int64_t page, const char* name) {
    if (cache.size(1) < page)
        broken("input \"{}\" is {}, expected pages of at least {} rows", name, to_string(cache), page);
    const std::int64_t shape[] = {cache.size(0), page, cache.size(2)};
    const std::int64_t strides[] = {cache.stride(0), cache.stride(1), cache.stride(2)};
    return Tensor::strided(cache.data, cache.dtype, shape, strides, cache.device);
}

/// One pool of the decode interface; `prefix` is "" or "extra_".
void add_pool(CaseContext& context, const std::string& prefix, std::int64_t page, const Tensor& table,
              mla::SparseAttentionProblem& problem, mla::SparseAttentionArgs& args) {
    const std::string cache_name = prefix + "k_cache";
    const std::string scale_name = prefix.empty() ? "scale_cache" : "extra_scale_cache";
    mla::KvPoolArgs pool;
    pool.cache = {KvFormat::fp8_split, 512, page, paged_view(context.input(cache_name, 3), page, cache_name.c_str()),
                  paged_view(context.input(scale_name, 3), page, scale_name.c_str())};
    pool.indices = drop_sequence_dimension(context.input(prefix + "indices"), 2, "indices");
    pool.lengths = context.optional_input(prefix + "topk_length", 1);
    pool.block_table = table;
    problem.pools.push_back({KvFormat::fp8_split, pool.cache.rows(), page, static_cast<int>(pool.indices.size(1)),
                             table.present, pool.lengths.present});
    args.pools.push_back(pool);
}

}  // namespace

void run_sparse_mla_attention(CaseContext& context) {
    const Tensor indices = context.input("indices", 2);
    const auto value_dim = context.integer_or("d_v", context.host_input("q", 3).size(2));
    const PlainRows rows(context, value_dim);
    mla::SparseAttentionProblem problem;
    mla::SparseAttentionArgs args;
    args.q = rows.q();
    args.tokens = args.q.size(0);
    problem.max_tokens = args.tokens;
    problem.heads = static_cast<int>(args.q.size(1));
    problem.dim = rows.cache().dim;
    problem.value_dim = rows.value_dim();
    problem.q_dtype = args.q.dtype;
    problem.out_dtype = rows.out_dtype(context.expected_dtype("out", DType::bf16));
    const Tensor lengths = context.optional_input("topk_length", 1);
    problem.pools = {
        {KvFormat::bf16, rows.cache().rows(), 1, static_cast<int>(indices.size(1)), false, lengths.present}};
    args.pools = {{rows.cache(), indices, lengths, {}}};
    args.softmax_scale = static_cast<float>(context.number("sm_scale"));
    args.sink = sink_input(context, problem.heads);
    args.lse_convention = kWithSink;
    args.out = context.allocate(problem.out_dtype, {args.tokens, problem.heads, problem.value_dim});
    args.lse = context.allocate(DType::f32, {args.tokens, problem.heads});
    args.max_logits = context.allocate(DType::f32, {args.tokens, problem.heads});
    context.run_operator(problem, args);
    rows.produce_out(context, args.out);
    context.produce("lse", args.lse);
    context.produce("max_logits", args.max_logits, "", dead_rows(context, rows.cache().rows()));
}

void run_flash_mla_with_kvcache(CaseContext& context) {
    const std::int64_t nope = context.integer_or("nope_dim", 448);
    const std::int64_t rope = context.integer_or("rope_dim", 64);
    const std::int64_t block = context.integer_or("quant_block", 64);
    if (nope != 448 || rope != 64 || block != 64)
        skip("cache rows of {} + {} values in blocks of {}; offered are 448 + 64 in blocks of 64", nope, rope, block);
    mla::SparseAttentionProblem problem;
    mla::SparseAttentionArgs args;
    args.q = drop_sequence_dimension(context.input("q"), 3, "q");
    args.tokens = args.q.size(0);
    problem.max_tokens = args.tokens;
    problem.heads = static_cast<int>(args.q.size(1));
    problem.dim = args.q.size(2);
    problem.value_dim = context.integer_or("head_dim_v", problem.dim);
    problem.q_dtype = args.q.dtype;
    problem.out_dtype = context.expected_dtype("out", DType::bf16);
    const Tensor table = context.optional_input("block_table", 2);
    const std::int64_t page = context.integer_or("block_size", context.host_input("k_cache", 3).size(1));
    add_pool(context, "", page, table, problem, args);
    if (context.has("extra_k_cache")) add_pool(context, "extra_", page, table, problem, args);
    args.softmax_scale = static_cast<float>(context.number("softmax_scale"));
    args.sink = sink_input(context, problem.heads);
    args.lse_convention = kWithSink;
    args.out = context.allocate(problem.out_dtype, {args.tokens, problem.heads, problem.value_dim});
    args.lse = context.allocate(DType::f32, {args.tokens, problem.heads});
    context.run_operator(problem, args);
    context.produce("out", args.out);
    context.produce("lse", args.lse);
}

void run_merge_state(CaseContext& context) {
    mla::MergeStateArgs args;
    args.out_a = context.input("out_a", 3);
    args.lse_a = context.input("lse_a", 2);
    args.out_b = context.input("out_b", 3);
    args.lse_b = context.input("lse_b", 2);
    args.tokens = args.out_a.size(0);
    const mla::MergeStateProblem problem{args.tokens, static_cast<int>(args.out_a.size(1)), args.out_a.size(2),
                                         args.out_a.dtype};
    args.out = context.allocate(problem.dtype, {args.tokens, problem.heads, problem.dim});
    args.lse = context.allocate(DType::f32, {args.tokens, problem.heads});
    context.run_operator(problem, args);
    context.produce("out", args.out);
    context.produce("lse", args.lse);
}

void run_indexer(CaseContext& context) {
    mla::IndexerArgs args;
    args.q = context.input("q", 3);
    args.k = context.input("k", 2);
    args.weights = context.input_as_f32("weights");
    args.tokens = args.q.size(0);
    if (args.weights.rank == 3 && args.weights.size(2) == 1)
        args.weights = args.weights.reshape({args.weights.size(0), args.weights.size(1)});
    args.lengths = context.optional_input("lengths", 1);
    // The cases say that starts without lengths mean nothing.
    if (args.lengths) args.row_starts = context.optional_input("row_starts", 1);
    mla::IndexerProblem problem;
    problem.max_tokens = args.tokens;
    problem.heads = static_cast<int>(args.q.size(1));
    problem.dim = args.q.size(2);
    problem.keys = args.k.size(0);
    problem.top_k = static_cast<int>(context.integer("topk"));
    problem.dtype = args.q.dtype;
    args.logits = context.allocate(DType::f32, {args.tokens, problem.keys});
    args.indices = context.allocate(DType::i32, {args.tokens, problem.top_k});
    context.run_operator(problem, args);
    context.produce("logits", args.logits);
    context.produce("indices", args.indices);
}

void run_paged_gather(CaseContext& context) {
    if (context.integer_or("group_size", 32) != 32) skip("mxfp4 groups other than 32");
    mla::PagedGatherArgs args;
    const Tensor values = context.input("kv_packed", 3);
    args.positions = context.input("sel_pos", 2);
    args.block_table = context.optional_input("block_table", 2);
    args.tokens = args.positions.size(0);
    args.cache = {KvFormat::mxfp4, values.size(2) * 2, values.size(1), values, context.input("kv_scale", 3)};
    context.agree("block_size", args.cache.page_size);
    mla::PagedGatherProblem problem;
    problem.max_tokens = args.tokens;
    problem.top_k = static_cast<int>(args.positions.size(1));
    problem.format = KvFormat::mxfp4;
    problem.dim = args.cache.dim;
    problem.page_size = args.cache.page_size;
    problem.has_table = args.block_table.present;
    problem.out_dtype = context.expected_dtype("out", DType::bf16);
    args.out = context.allocate(problem.out_dtype, {args.tokens, problem.top_k, problem.dim});
    context.run_operator(problem, args);
    context.produce("out", args.out);
}

}  // namespace tokamak::cli::conformance
