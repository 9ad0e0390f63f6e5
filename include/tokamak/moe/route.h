// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "tokamak/plan.h"
#include "tokamak/tensor.h"

namespace tokamak::moe {

enum class RouteMethod : std::uint8_t {
    /// p = softmax over all experts in f32; the top-k by p, ties to the lower id; weights p, divided by their sum if
    /// `renormalize`, times `routed_scaling_factor`. (vLLM topk_softmax.)
    softmax,
    /// s = sigmoid(logits); choice by s + correction_bias: keep the `top_groups` groups with the largest sum of their
    /// two best, then the top-k inside them, ties to the lower id; weights s (without the bias), divided by their sum
    /// (plus 1e-20) if `renormalize`, times `routed_scaling_factor`. (DeepSeek-V3 noaux_tc.)
    sigmoid_grouped,
};

/// How `fused_moe` routes inside its call. The fields are those of RouteProblem.
struct RouteRule {
    RouteMethod method = RouteMethod::softmax;
    bool renormalize = true;
    float routed_scaling_factor = 1.0F;
    int num_groups = 1;
    int top_groups = 1;
    DType logits_dtype = DType::f32;
};

struct RouteProblem {
    std::int64_t max_tokens = 0;
    int num_experts = 0;  ///< 1 to 4096
    int top_k = 0;        ///< 1 to num_experts
    RouteMethod method = RouteMethod::softmax;
    bool renormalize = true;
    float routed_scaling_factor = 1.0F;
    int num_groups = 1;  ///< sigmoid_grouped: divides num_experts; groups of at least two experts if more than one
    int top_groups = 1;  ///< 1 to num_groups; top_groups * (num_experts / num_groups) >= top_k
    DType logits_dtype = DType::f32;   ///< f32, bf16 or f16
    DType weights_dtype = DType::f32;  ///< f32 or bf16
    DType ids_dtype = DType::i32;      ///< i32 or i64
};

struct RouteArgs {
    std::int64_t tokens = 0;
    Tensor num_tokens;       ///< optional i32 [1] on the device: lowers `tokens`
    Tensor logits;           ///< [tokens, num_experts], rows may be strided
    Tensor correction_bias;  ///< optional f32 [num_experts], sigmoid_grouped only
    Tensor weights;          ///< out [>= tokens, top_k], descending choice
    Tensor ids;              ///< out [>= tokens, top_k]
};

using RoutePlan = PlanOf<RouteProblem>;

Support supports(const RouteProblem& problem, Device device);
/// The contract of all calls is at the end of plan.h.
RoutePlan make_plan(const RouteProblem& problem, Device device, const PlanOptions& options = {});
/// Allocates nothing, synchronises nothing, legal in capture. A NaN score makes its row NaN weights, ids 0, 1, ...
void run(const RoutePlan& plan, const RouteArgs& args, const Workspace& workspace, Stream stream = {});

struct RouteResult {
    OwnedTensor weights;
    OwnedTensor ids;
};
/// Allocates what `args` leaves absent (weights, ids) and the workspace if none is given. Not for capture.
RouteResult route(const RouteProblem& problem, RouteArgs args, Device device = {}, const Workspace& workspace = {},
                  Stream stream = {});
RouteResult route(const RoutePlan& plan, RouteArgs args, const Workspace& workspace = {}, Stream stream = {});

}  // namespace tokamak::moe
