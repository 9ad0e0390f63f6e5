// SPDX-License-Identifier: Apache-2.0
#include <array>
#include <cmath>
#include <limits>

#include "core/check.h"
#include "formats/kv_check.h"
#include "mla/paging.h"
#include "mla/sparse_attention_state.h"

namespace tokamak::mla {
namespace {

constexpr const char* kOp = kSparseAttention;
constexpr std::int64_t kAnyCount = std::numeric_limits<std::int64_t>::max();

/// Names of a pool's fields in messages; constants, so that a check allocates nothing.
struct PoolNames {
    const char* rows;
    const char* page_size;
    const char* top_k;
    const char* dim;
    kv::CacheNames cache;
    const char* indices;
    const char* lengths;
    const char* block_table;
};

constexpr std::array<PoolNames, 2> kPools = {{
    {"pools[0].rows",
     "pools[0].page_size",
     "pools[0].top_k",
     "dim",
     {kOp, "pools[0].cache.values", "pools[0].cache.scales"},
     "pools[0].indices",
     "pools[0].lengths",
     "pools[0].block_table"},
    {"pools[1].rows",
     "pools[1].page_size",
     "pools[1].top_k",
     "dim",
     {kOp, "pools[1].cache.values", "pools[1].cache.scales"},
     "pools[1].indices",
     "pools[1].lengths",
     "pools[1].block_table"},
}};

void validate_pool(const KvPool& pool, std::int64_t dim, const PoolNames& names) {
    kv::check_dim(pool.format, dim, kOp, names.dim);
    check::range(kOp, names.page_size, pool.page_size, 1, kAnyCount);
    check::range(kOp, names.rows, pool.rows, 0, kAnyCount);
    check::range(kOp, names.top_k, pool.top_k, 0, kAnyCount);
    if (pool.rows % pool.page_size != 0)
        invalid("{}: `{}` is {}, expected a multiple of the page size {}", kOp, names.rows, pool.rows, pool.page_size);
}

void validate_pool_args(const KvPool& pool, const KvPoolArgs& args, const SparseAttentionPlan& plan,
                        std::int64_t tokens, const PoolNames& names) {
    const Device device = plan.device();
    kv::check_cache(args.cache, {pool.format, plan.problem().dim, pool.page_size, device}, names.cache);
    if (args.cache.rows() != pool.rows)
        invalid("{}: `{}` holds {} rows ({} pages of {}), the plan was made for {}", kOp, names.cache.values,
                args.cache.rows(), args.cache.pages(), pool.page_size, pool.rows);
    const auto check_per_token = [&](const Tensor& tensor, const char* name, std::int64_t columns) {
        check::tensor(tensor,
                      {.op = kOp, .name = name, .dtypes = {DType::i32}, .shape = {tokens, columns}, .device = device});
    };
    if (pool.top_k > 0 || args.indices.present) check_per_token(args.indices, names.indices, pool.top_k);
    if (pool.has_length)
        check::tensor(args.lengths,
                      {.op = kOp, .name = names.lengths, .dtypes = {DType::i32}, .shape = {tokens}, .device = device});
    else
        check::absent(args.lengths, kOp, names.lengths, "because the plan was made without has_length");
    if (pool.has_table)
        check_per_token(args.block_table, names.block_table, check::any);
    else
        check::absent(args.block_table, kOp, names.block_table, "because the plan was made without has_table");
}

void validate_outputs(const SparseAttentionProblem& problem, const SparseAttentionArgs& args, Device device) {
    check::tensor(args.out, {.op = kOp,
                             .name = "out",
                             .dtypes = {problem.out_dtype},
                             .shape = {args.tokens, problem.heads, problem.value_dim},
                             .device = device,
                             .leading_rows = true,
                             .contiguous_from = 2,
                             .written = true});
    const auto statistic = [&](const Tensor& tensor, const char* name) {
        check::optional_tensor(tensor, {.op = kOp,
                                        .name = name,
                                        .dtypes = {DType::f32},
                                        .shape = {args.tokens, problem.heads},
                                        .device = device,
                                        .leading_rows = true,
                                        .written = true});
    };
    statistic(args.lse, "lse");
    statistic(args.max_logits, "max_logits");
}

void refuse_overlap(const SparseAttentionPlan& plan, const SparseAttentionArgs& args, const Workspace& workspace) {
    const WorkspaceSize used = plan.workspace();
    for (const auto& [output, name] :
         {std::pair{&args.out, "out"}, {&args.lse, "lse"}, {&args.max_logits, "max_logits"}}) {
        check::disjoint(kOp, {name, *output}, {{"num_tokens", args.num_tokens}, {"q", args.q}, {"sink", args.sink}},
                        workspace, used);
        for (std::size_t p = 0; p < args.pools.size(); ++p) {
            const KvPoolArgs& pool = args.pools[p];
            const PoolNames& names = kPools[p];
            check::disjoint(kOp, {name, *output},
                            {{names.cache.values, pool.cache.values},
                             {names.cache.scales, pool.cache.scales},
                             {names.indices, pool.indices},
                             {names.lengths, pool.lengths},
                             {names.block_table, pool.block_table}},
                            workspace, used);
        }
    }
    check::no_overlap(args.out, "out", args.lse, "lse", kOp);
    check::no_overlap(args.out, "out", args.max_logits, "max_logits", kOp);
    check::no_overlap(args.lse, "lse", args.max_logits, "max_logits", kOp);
}

}  // namespace

void validate(const SparseAttentionProblem& problem) {
    check::range(kOp, "max_tokens", problem.max_tokens, 0, kAnyCount);
    check::range(kOp, "heads", problem.heads, 1, 128);
    check::range(kOp, "dim", problem.dim, 1, kAnyCount);
    check::range(kOp, "value_dim", problem.value_dim, 1, problem.dim);
    check::range(kOp, "pools.size()", static_cast<std::int64_t>(problem.pools.size()), 1, 2);
    check::dtype(kOp, "q_dtype", problem.q_dtype, {DType::bf16, DType::f16, DType::f32});
    check::dtype(kOp, "out_dtype", problem.out_dtype, {DType::bf16, DType::f16, DType::f32, DType::f64});
    for (std::size_t p = 0; p < problem.pools.size(); ++p) validate_pool(problem.pools[p], problem.dim, kPools[p]);
}

void validate(const SparseAttentionPlan& plan, const SparseAttentionArgs& args, const Workspace& workspace) {
    const SparseAttentionProblem& problem = plan.problem();
    const Device device = plan.device();
    check::tokens(kOp, args.tokens, plan.max_tokens());
    check::num_tokens(args.num_tokens, kOp, device);
    check::tensor(args.q, {.op = kOp,
                           .name = "q",
                           .dtypes = {problem.q_dtype},
                           .shape = {args.tokens, problem.heads, problem.dim},
                           .device = device,
                           .contiguous_from = 2});
    if (!std::isfinite(args.softmax_scale))
        invalid("{}: `softmax_scale` is {}, expected a finite number", kOp, args.softmax_scale);
    if (args.pools.size() != problem.pools.size())
        invalid("{}: `pools` has {} entries, the plan was made for {}", kOp, args.pools.size(), problem.pools.size());
    for (std::size_t p = 0; p < problem.pools.size(); ++p)
        validate_pool_args(problem.pools[p], args.pools[p], plan, args.tokens, kPools[p]);
    check::optional_tensor(
        args.sink, {.op = kOp, .name = "sink", .dtypes = {DType::f32}, .shape = {problem.heads}, .device = device});
    validate_outputs(problem, args, device);
    plan.layout().check(workspace, device, kOp);
    refuse_overlap(plan, args, workspace);
}

}  // namespace tokamak::mla
