// SPDX-License-Identifier: Apache-2.0
#include "mla/cuda/sparse_attention_args.h"

#include <algorithm>
#include <bit>
#include <limits>
#include <numbers>

#include "formats/kv_layout.h"
#include "mla/cuda/alignment.h"

namespace tokamak::mla::cuda {
namespace {

using sparse_decode::FirstRead;
using sparse_decode::Params;
using sparse_decode::PoolParams;

void set_rows(PoolParams& to, const KvCache& cache) {
    to.values = cache.values.as<std::uint8_t>();
    to.page_stride = cache.values.stride(0) * static_cast<std::int64_t>(size_of(cache.values.dtype));
    to.scale_page_stride = to.page_stride;
    switch (cache.format) {
        case KvFormat::fp8_656:
            to.row_bytes = to.scale_row_bytes = sizeof(kv::Row656);
            to.scales = to.values + offsetof(kv::Row656, scales);
            return;
        case KvFormat::fp8_584:
            to.row_bytes = sizeof(kv::Row576);
            to.scale_row_bytes = sizeof(kv::Scales8);
            to.scales = to.values + cache.page_size * static_cast<std::int64_t>(sizeof(kv::Row576));
            return;
        case KvFormat::fp8_split:
            to.row_bytes = sizeof(kv::Row576);
            to.scale_row_bytes = sizeof(kv::Scales8);
            to.scales = cache.scales.as<std::uint8_t>();
            to.scale_page_stride = cache.scales.stride(0);
            return;
        default: to.row_bytes = static_cast<std::int32_t>(cache.dim * 2); return;
    }
}

/// Division as a product, exact for dividends below 2^31: n / by == umulhi(2 n, magic) >> shift.
void set_division(std::int32_t by, std::uint32_t& magic, std::int32_t& shift) {
    const auto divisor = static_cast<std::uint64_t>(by);
    shift = static_cast<std::int32_t>(std::bit_width(divisor - 1));
    magic = static_cast<std::uint32_t>(((std::uint64_t{1} << (31 + shift)) + divisor - 1) / divisor);
}

void set_page_size(PoolParams& to, std::int64_t page_size) {
    to.page_size =
        static_cast<std::int32_t>(std::clamp<std::int64_t>(page_size, 1, std::numeric_limits<std::int32_t>::max()));
    set_division(to.page_size, to.page_magic, to.page_shift);
}

void set_pool(PoolParams& to, const KvPool& pool, const KvPoolArgs& args) {
    set_rows(to, args.cache);
    to.rows = pool.rows;
    to.pages = args.cache.pages();
    set_page_size(to, pool.page_size);
    to.top_k = pool.top_k;
    if (pool.top_k > 0) {
        to.indices = args.indices.as<std::int32_t>();
        to.index_stride = args.indices.stride(0);
    }
    if (args.lengths.present) {
        to.lengths = args.lengths.as<std::int32_t>();
        to.length_stride = args.lengths.stride(0);
    }
    if (args.block_table.present) {
        to.block_table = args.block_table.as<std::int32_t>();
        to.table_stride = args.block_table.stride(0);
        to.table_columns = args.block_table.size(1);
    }
}

void set_first(FirstRead& to, const PoolParams& pool, std::size_t p) {
    to.pools[p] = {pool.indices, pool.lengths, pool.index_stride, pool.length_stride};
    to.top_k[p] = pool.top_k;
}

/// Whether rows and scales can be copied 16 (eight exponents: 8) bytes at a time.
bool rows_aligned(const Params& params, std::size_t pools) {
    for (std::size_t p = 0; p < pools; ++p) {
        const PoolParams& pool = params.pools[p];
        if (Alignment().add(pool.values).add(pool.page_stride).add(std::int64_t{pool.row_bytes}).bytes() < 16)
            return false;
        const int scale_bytes = pool.scale_row_bytes == sizeof(kv::Scales8) ? 8 : 16;
        if (pool.scales != nullptr &&
            Alignment().add(pool.scales).add(pool.scale_page_stride).add(std::int64_t{pool.scale_row_bytes}).bytes() <
                scale_bytes)
            return false;
    }
    return true;
}

void set_outputs(Params& params, const SparseAttentionProblem& problem, const SparseAttentionArgs& args) {
    using sparse_decode::OutKind;
    params.out = args.out.data;
    params.out_token_stride = args.out.stride(0);
    params.out_head_stride = args.out.stride(1);
    params.out_kind = problem.out_dtype == DType::bf16  ? OutKind::bf16
                      : problem.out_dtype == DType::f16 ? OutKind::f16
                                                        : OutKind::f32;
    params.out_vectors =
        Alignment().add(args.out.data).add(args.out.stride(0) * 2).add(args.out.stride(1) * 2).bytes() == 16;
    if (args.lse.present) {
        params.lse = args.lse.as<float>();
        params.lse_token_stride = args.lse.stride(0);
        params.lse_head_stride = args.lse.stride(1);
    }
    if (args.max_logits.present) {
        params.max_logits = args.max_logits.as<float>();
        params.max_token_stride = args.max_logits.stride(0);
        params.max_head_stride = args.max_logits.stride(1);
    }
    params.lse_base_two = args.lse_convention.base == LseBase::two;
    params.lse_with_sink = args.lse_convention.include_sink;
    params.max_with_sink = args.lse_convention.max_logits_include_sink;
}

}  // namespace

void set_splits(Params& params, int splits) {
    constexpr int kOutputParts = 32;
    params.splits = splits;
    set_division(splits, params.split_magic, params.split_shift);
    const int columns = params.first.top_k[0] + params.first.top_k[1];
    params.first.share = ((columns + splits - 1) / splits + 7) / 8 * 8;
    // Exact for 2^22 tokens and 16 splits.
    params.first.of_splits = static_cast<std::uint32_t>(((std::uint64_t{1} << 32) + splits - 1) / splits);
    params.owned_parts = (kOutputParts + splits - 1) / splits;
    params.part_magic = (256 + params.owned_parts - 1) / params.owned_parts;
}

void set_paired_parts(Params& params) {
    constexpr int kParts = 64;
    params.owned_parts = (kParts + params.splits - 1) / params.splits;
    params.part_magic = (4096 + params.owned_parts - 1) / params.owned_parts;
}

Params decode_params(const SparseAttentionProblem& problem, const SparseAttentionArgs& args) {
    Params params{};
    for (PoolParams& pool : params.pools) set_page_size(pool, 1);
    bool any_bf16 = false;
    bool any_fp8 = false;
    for (std::size_t p = 0; p < problem.pools.size(); ++p) {
        set_pool(params.pools[p], problem.pools[p], args.pools[p]);
        set_first(params.first, params.pools[p], p);
        (problem.pools[p].format == KvFormat::bf16 ? any_bf16 : any_fp8) = true;
    }
    params.anywhere = (any_bf16 && any_fp8) || !rows_aligned(params, problem.pools.size());
    params.q = args.q.data;
    params.q_token_stride = args.q.stride(0);
    params.q_head_stride = args.q.stride(1);
    params.q_vectors = Alignment().add(args.q.data).add(args.q.stride(0) * 2).add(args.q.stride(1) * 2).bytes() == 16;
    if (args.sink.present) {
        params.sink = args.sink.as<float>();
        params.sink_stride = args.sink.stride(0);
    }
    if (args.num_tokens.present) params.num_tokens = args.num_tokens.as<std::int32_t>();
    params.tokens = static_cast<std::int32_t>(args.tokens);
    params.heads = problem.heads;
    params.value_dim = static_cast<std::int32_t>(problem.value_dim);
    params.scale_log2 = args.softmax_scale * static_cast<float>(std::numbers::log2e);
    set_outputs(params, problem, args);
    return params;
}

}  // namespace tokamak::mla::cuda
