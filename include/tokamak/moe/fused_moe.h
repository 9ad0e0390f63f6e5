// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>

#include "tokamak/moe/route.h"
#include "tokamak/plan.h"
#include "tokamak/tensor.h"
#include "tokamak/weight_format.h"

namespace tokamak::moe {

enum class ActivationKind : std::uint8_t {
    swiglu,          ///< silu(g) * u
    swiglu_clamped,  ///< g = min(g, limit), u = clamp(u, -limit, limit), silu(g) * u (DeepSeek-V4)
    gpt_oss,         ///< the same clamps, then (u + 1) * g * sigmoid(alpha * g)
};

struct Activation {
    ActivationKind kind = ActivationKind::swiglu;
    float alpha = 1.702F;  ///< gpt_oss
    float limit = 0.0F;    ///< swiglu_clamped, gpt_oss: 0 or less means no clamp

    static Activation swiglu() noexcept { return {}; }
    static Activation swiglu_clamped(float limit) noexcept { return {ActivationKind::swiglu_clamped, 1.702F, limit}; }
    static Activation gpt_oss(float alpha = 1.702F, float limit = 7.0F) noexcept {
        return {ActivationKind::gpt_oss, alpha, limit};
    }
};

/// Where the routing weight is multiplied in.
enum class RoutingWeight : std::uint8_t {
    output,  ///< on each expert's result (after its bias), in f32
    input,   ///< on the token row before the first GEMM, rounded to the activation dtype (Llama-4 style)
    none,
};

/// The routed-expert layer. Sums are f32; CUDA may round d to bf16 if `out` is bf16. For token m and its experts e,
///   gu = x[m] W13[e]^T + b13[e];  a = act(gate, up), rounded to act_dtype;  d = a W2[e]^T + b2[e];  out[m] += w[m,j] d
/// (+ shared_output[m]). A token none of whose experts is local gets shared_output or zero.
struct FusedMoeProblem {
    std::int64_t max_tokens = 0;
    std::int64_t hidden = 0;
    std::int64_t intermediate = 0;
    int num_experts = 0;        ///< global: ids lie in [0, num_experts); others are masked
    int num_local_experts = 0;  ///< experts in the packed weights; 0: all of num_experts
    int top_k = 0;              ///< 1 to 64; duplicated experts in a token count twice
    WeightSpec weights{};
    Activation activation{};
    RoutingWeight routing_weight = RoutingWeight::output;
    /// fp8_block, mxfp4, int4_g32: rows and intermediate become e4m3 with 1x128 scales
    bool quantize_activations = false;
    DType act_dtype = DType::bf16;  ///< x: bf16, f16 or f32 (CUDA: bf16)
    DType out_dtype = DType::bf16;  ///< bf16, f16, f32; f64: the CPU's oracle variant
    /// Routes from `logits` in the same call, in place of `ids` and `weights`. On CUDA top_k and groups up to 32.
    std::optional<RouteRule> route{};
    /// Rows come grouped by expert, as a dispatcher leaves them ("batched experts" of vLLM, masked layout of DeepGEMM):
    /// with R = tokens / local experts, row e * R + r of x and out is row r of local expert e, and
    /// FusedMoeArgs::expert_rows says how many there are. What lies behind those has no effect, and stays in out. top_k
    /// is 1 and every expert is local; there are no ids, map or num_tokens. CUDA: all formats.
    bool batched_experts = false;
};

struct FusedMoeArgs {
    std::int64_t tokens = 0;
    Tensor num_tokens;       ///< optional i32 [1] on the device: lowers `tokens`; rows past it are not touched
    Tensor x;                ///< [tokens, hidden] act_dtype, rows may be strided
    Tensor ids;              ///< [tokens, top_k] i32 or i64, global expert ids; negative or too large: masked
    Tensor weights;          ///< [tokens, top_k] f32 or bf16 routing weights; RoutingWeight::none ignores them.
    Tensor logits;           ///< only with `route`: [tokens, num_experts] route->logits_dtype, rows may be strided
    Tensor correction_bias;  ///< with `route`: optional f32 [num_experts], sigmoid_grouped only
    Tensor gate_up;          ///< packed u8 [local experts, gate_up layout bytes], 128-byte aligned
    Tensor down;             ///< packed u8 [local experts, down layout bytes]
    Tensor gate_up_bias;     ///< optional bf16 or f32 [local experts, 2 * intermediate]: gate then up
    Tensor down_bias;        ///< optional bf16 or f32 [local experts, hidden]
    Tensor expert_map;       ///< optional i32 [num_experts]: local row; any other number: elsewhere. May be scattered
    int first_expert = 0;    ///< without a map: local expert r is global expert first_expert + r; 0 with a map
    Tensor expert_rows;      ///< with `batched_experts`: i32 [local experts] on the device; clamped to [0, R]
    Tensor shared_output;    ///< optional [tokens, hidden] out_dtype or act_dtype, added
    bool accumulate_into_out = false;  ///< add to what `out` holds instead of overwriting it
    Tensor out;                        ///< [>= tokens, hidden] out_dtype
};

using FusedMoePlan = PlanOf<FusedMoeProblem>;

/// Layouts of the packed weights that a problem takes. Throw what PackedLayout::make throws.
PackedLayout gate_up_layout(const FusedMoeProblem& problem);
PackedLayout down_layout(const FusedMoeProblem& problem);

Support supports(const FusedMoeProblem& problem, Device device);
/// Allocates host memory only. CPU variants: "cpu_f32" (default; int4 weights are rounded to a 16-bit act_dtype, as the
/// matrix units' operands are, but for quantised x), "cpu_f64" (the oracle: f64 sums, neither those weights nor the
/// intermediate rounded). `max_workspace_bytes` makes a call work in chunks of tokens; the results are the same bits.
FusedMoePlan make_plan(const FusedMoeProblem& problem, Device device, const PlanOptions& options = {});
/// Allocates nothing, synchronises nothing, legal in capture: the contract of all calls is at the end of plan.h.
void run(const FusedMoePlan& plan, const FusedMoeArgs& args, const Workspace& workspace, Stream stream = {});

/// Allocates `out` if absent and the workspace if none is given, then runs. Not for capture.
OwnedTensor fused_moe(const FusedMoeProblem& problem, FusedMoeArgs args, Device device = {},
                      const Workspace& workspace = {}, Stream stream = {});
OwnedTensor fused_moe(const FusedMoePlan& plan, FusedMoeArgs args, const Workspace& workspace = {}, Stream stream = {});

}  // namespace tokamak::moe
