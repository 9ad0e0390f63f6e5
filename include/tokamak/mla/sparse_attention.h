// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vector>

#include "tokamak/kv_format.h"
#include "tokamak/plan.h"
#include "tokamak/tensor.h"

namespace tokamak::mla {

/// One pool of KV rows: what fixes sizes and the choice of the kernel.
struct KvPool {
    KvFormat format = KvFormat::bf16;
    std::int64_t rows = 0;       ///< pages * page_size of the cache
    std::int64_t page_size = 1;  ///< rows per page
    int top_k = 0;               ///< columns of `indices`; any number, 0 allowed
    bool has_table = false;      ///< indices are logical positions, translated by a block table
    bool has_length = false;     ///< per-token lengths limit the columns
};

/// Token-level sparse attention over a latent cache shared by all heads (MQA): one softmax over the selected rows of
/// one or two pools. value = first value_dim elements of the same row. Scores and sums f32, one rounding of the result.
/// (CUDA, variants direct_decode_h64 and grid_decode_h64 but for rows of 512: scores of more than 63 live rows have
/// errors of 2e-4 of their deviation, rms.) A NaN score makes everything of its token and head NaN; a score of +inf all
/// but max_logits. A row with only scores of -inf counts as empty.
struct SparseAttentionProblem {
    std::int64_t max_tokens = 0;
    int heads = 0;                  ///< 1 to 128
    std::int64_t dim = 0;           ///< any that the pools' formats hold (CUDA: 512 and 576)
    std::int64_t value_dim = 0;     ///< 1 to dim (CUDA: 448 and 512)
    std::vector<KvPool> pools;      ///< one or two
    DType q_dtype = DType::bf16;    ///< bf16, f16 or f32 (CUDA: bf16)
    DType out_dtype = DType::bf16;  ///< bf16, f16, f32; f64: the CPU's oracle variant
};

enum class LseBase : std::uint8_t { natural, two };

/// Conventions of the two statistics; defaults are FlashMLA's, but an empty row's lse is -inf.
struct LseConvention {
    LseBase base = LseBase::natural;
    bool include_sink = false;             ///< lse counts exp(sink)
    bool max_logits_include_sink = false;  ///< max_logits counts the sink
};

struct KvPoolArgs {
    KvCache cache;
    Tensor indices;      ///< i32 [tokens, top_k], rows may be strided; < 0 or past the pool: masked, never loaded
    Tensor lengths;      ///< optional i32 [tokens]: columns j >= length are masked; clamped to [0, top_k]
    Tensor block_table;  ///< optional i32 [tokens, pages per sequence]; row stride 0 shares one; entry out of range:
                         ///< masked
};

struct SparseAttentionArgs {
    std::int64_t tokens = 0;
    Tensor num_tokens;  ///< optional i32 [1] on the device
    Tensor q;           ///< [tokens, heads, dim], last dimension contiguous
    float softmax_scale = 1.0F;
    std::vector<KvPoolArgs> pools;
    Tensor sink;  ///< optional f32 [heads]: natural-log logit that only enters the denominator; -inf: as absent
    LseConvention lse_convention;
    Tensor out;         ///< [>= tokens, heads, value_dim] out_dtype; a row without valid columns gives 0
    Tensor lse;         ///< optional f32 [>= tokens, heads]; empty row: -inf (or the sink, if included)
    Tensor max_logits;  ///< optional f32 [>= tokens, heads], of scaled scores, natural units; empty row: as lse.
                        ///< (CUDA, variants direct_decode_h64: asking for it costs the time of sparse_decode_h64)
};

using SparseAttentionPlan = PlanOf<SparseAttentionProblem>;

// The contract of the calls: end of plan.h.
Support supports(const SparseAttentionProblem& problem, Device device);
SparseAttentionPlan make_plan(const SparseAttentionProblem& problem, Device device, const PlanOptions& options = {});
/// Allocates nothing, synchronises nothing, legal in capture. Duplicated indices count as often as they stand.
/// Few variants need a workspace on CUDA.
void run(const SparseAttentionPlan& plan, const SparseAttentionArgs& args, const Workspace& workspace,
         Stream stream = {});

struct SparseAttentionResult {
    OwnedTensor out;
    OwnedTensor lse;
    OwnedTensor max_logits;
};
/// Allocates out, lse, max_logits (which costs time, see there) where absent, and the workspace. Not for capture.
SparseAttentionResult sparse_attention(const SparseAttentionProblem& problem, SparseAttentionArgs args,
                                       Device device = {}, const Workspace& workspace = {}, Stream stream = {});
SparseAttentionResult sparse_attention(const SparseAttentionPlan& plan, SparseAttentionArgs args,
                                       const Workspace& workspace = {}, Stream stream = {});

}  // namespace tokamak::mla
