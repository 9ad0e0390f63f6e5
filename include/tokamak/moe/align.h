// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "tokamak/plan.h"
#include "tokamak/tensor.h"

namespace tokamak::moe {

/// What becomes of routes whose expert lives elsewhere (expert_map names no local row).
enum class NonLocal : std::uint8_t {
    drop,   ///< absent from the output
    ghost,  ///< kept as one last expert whose blocks are marked -1
};

/// Sorts the routes (slot t = token * top_k + j) by expert and pads each expert to a multiple of `block_size`.
/// Source: vLLM moe_align_block_size; docs/operators/moe.md has the shapes.
struct AlignProblem {
    std::int64_t max_tokens = 0;
    int top_k = 0;               ///< 1 to 64
    int num_experts = 0;         ///< local experts: those that expert_map numbers, or all
    int num_global_experts = 0;  ///< ids lie in [0, num_global_experts); 0: the same as num_experts
    int block_size = 0;          ///< any positive number
    NonLocal non_local = NonLocal::drop;
    DType ids_dtype = DType::i32;  ///< i32 or i64
};

/// Lengths of the outputs of a call, see align_sizes.
struct AlignSizes {
    std::int64_t pad_id = 0;      ///< tokens * top_k: stands in the padding
    std::int64_t max_padded = 0;  ///< slots + (experts + 1) * (block_size - 1), experts + 1 if ghost
    std::int64_t max_blocks = 0;  ///< ceil(max_padded / block_size)
};
/// Of a call of `tokens` tokens. Pure. Throws `invalid_argument` for a malformed problem and for tokens below 0 or
/// above its maximum.
AlignSizes align_sizes(const AlignProblem& problem, std::int64_t tokens);

struct AlignArgs {
    std::int64_t tokens = 0;
    Tensor num_tokens;        ///< optional i32 [1] on the device: lowers `tokens`; pad_id stays that of `tokens`
    Tensor ids;               ///< [tokens, top_k] global expert ids; out-of-range ids are dropped
    Tensor expert_map;        ///< optional i32 [num_global_experts]: local row; any other number: elsewhere. Needed if
                              ///< num_global_experts is not num_experts
    Tensor sorted_token_ids;  ///< out i32 [>= max_padded]
    Tensor expert_ids;        ///< out i32 [>= max_blocks]: expert of each block; unused tail 0
    Tensor num_tokens_post_padded;  ///< out i32 [1]
};

using AlignPlan = PlanOf<AlignProblem>;

// The contract of the calls: end of plan.h.
Support supports(const AlignProblem& problem, Device device);
AlignPlan make_plan(const AlignProblem& problem, Device device, const PlanOptions& options = {});
/// Fixed shapes; allocates nothing, synchronises nothing, legal in capture. Stable: slots ascend inside an expert.
void run(const AlignPlan& plan, const AlignArgs& args, const Workspace& workspace, Stream stream = {});

struct AlignResult {
    OwnedTensor sorted_token_ids;
    OwnedTensor expert_ids;
    OwnedTensor num_tokens_post_padded;
    /// The truncated form: expert_ids of the used blocks only. Synchronises; not legal in capture.
    [[nodiscard]] Tensor used_expert_ids(int block_size, Stream stream = {}) const;
};
AlignResult align(const AlignProblem& problem, AlignArgs args, Device device = {}, const Workspace& workspace = {},
                  Stream stream = {});
AlignResult align(const AlignPlan& plan, AlignArgs args, const Workspace& workspace = {}, Stream stream = {});

}  // namespace tokamak::moe
