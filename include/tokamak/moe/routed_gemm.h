// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "tokamak/plan.h"
#include "tokamak/tensor.h"
#include "tokamak/weight_format.h"

namespace tokamak::moe {

/// One routed GEMM with weighted combine: out[m] = sum_j w[m,j] * (x[m] W[e(m,j)]^T). Sums are f32.
struct RoutedGemmProblem {
    std::int64_t max_tokens = 0;
    std::int64_t rows = 0;      ///< output width N
    std::int64_t cols = 0;      ///< input width K
    int num_experts = 0;        ///< global
    int num_local_experts = 0;  ///< 0: all
    int top_k = 0;              ///< 1 to 64
    WeightSpec weights{};
    bool apply_routing_weight = true;
    DType act_dtype = DType::bf16;  ///< bf16, f16 or f32 (CUDA: bf16)
    DType out_dtype = DType::bf16;  ///< bf16, f16, f32; f64: the oracle variant
};

struct RoutedGemmArgs {
    std::int64_t tokens = 0;
    Tensor num_tokens;     ///< optional i32 [1] on the device
    Tensor x;              ///< [tokens, cols]
    Tensor ids;            ///< [tokens, top_k] i32 or i64; out of range: masked
    Tensor weights;        ///< [tokens, top_k] f32 or bf16; ignored if the weight is not applied
    Tensor matrix;         ///< packed u8 [local experts, layout bytes]
    Tensor expert_map;     ///< optional i32 [num_experts]: local row; any other number: elsewhere
    int first_expert = 0;  ///< without a map: local expert r is global expert first_expert + r; 0 with a map
    Tensor out;            ///< [>= tokens, rows]
};

using RoutedGemmPlan = PlanOf<RoutedGemmProblem>;

/// Layout of the packed weights that a problem takes. Throws what PackedLayout::make throws.
PackedLayout matrix_layout(const RoutedGemmProblem& problem);

// The contract of the calls: end of plan.h.
Support supports(const RoutedGemmProblem& problem, Device device);
/// Variants, rounding of int4 weights and `max_workspace_bytes` as for fused_moe.
RoutedGemmPlan make_plan(const RoutedGemmProblem& problem, Device device, const PlanOptions& options = {});
/// Allocates nothing, synchronises nothing, legal in capture.
void run(const RoutedGemmPlan& plan, const RoutedGemmArgs& args, const Workspace& workspace, Stream stream = {});

OwnedTensor routed_gemm(const RoutedGemmProblem& problem, RoutedGemmArgs args, Device device = {},
                        const Workspace& workspace = {}, Stream stream = {});
OwnedTensor routed_gemm(const RoutedGemmPlan& plan, RoutedGemmArgs args, const Workspace& workspace = {},
                        Stream stream = {});

}  // namespace tokamak::moe
