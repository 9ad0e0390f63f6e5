// SPDX-License-Identifier: Apache-2.0
// Freezes a plan of fused_moe for a CUDA device, and runs it.
#include <algorithm>
#include <functional>
#include <memory>

#include "core/choose.h"
#include "core/environment.h"
#include "core/throw.h"
#include "cuda/check.h"
#include "moe/cuda/kernel_args.h"
#include "moe/cuda/launches.h"
#include "moe/cuda/legal_variants.h"
#include "moe/cuda/pass_workspace.h"
#include "moe/cuda/refused_variants.h"
#include "moe/cuda/route_first.h"
#include "moe/fused_moe_state.h"
#include "moe/problem_checks.h"
#include "moe/problem_key.h"

namespace tokamak::moe::cuda {
namespace {

using tokamak::cuda::DeviceGuard;

constexpr const char* kOp = "fused_moe";
constexpr int kMostRoutedChoices = 32;                    ///< and groups: a lane each
constexpr std::int64_t kMaxSize = std::int64_t{1} << 24;  ///< hidden and intermediate: counts of a pass fit an int

template <class... Values>
[[noreturn]] void unsupported(Device device, fmt::format_string<Values...> text, Values&&... values) {
    fail(ErrorCode::unsupported, "moe::{} on {}: {}", kOp, to_string(device),
         fmt::format(text, std::forward<Values>(values)...));
}

const DeviceInfo& existing_device(Device device) {
    try {
        return device_info(device);
    } catch (const Error& error) {
        unsupported(device, "{}", error.what());
    }
}

void require_options(const FusedMoeProblem& p, Device device) {
    const bool many = !grouped_instances(p.weights, p.quantize_activations).empty() ||
                      !wide_instances(p.weights, p.quantize_activations).empty();
    if (!many && !decode_instance(p.weights, p.quantize_activations))
        unsupported(device, "weights {} have no CUDA kernel", weights_text(p));
    if (p.act_dtype != DType::bf16)
        unsupported(device, "`act_dtype` is {}, the CUDA kernels take bf16", to_string(p.act_dtype));
    if (p.out_dtype == DType::f64) unsupported(device, "`out_dtype` f64 is the CPU oracle's alone");
    if (p.batched_experts && !many)
        unsupported(device, "`batched_experts` with weights {} has no kernel", weights_text(p));
    if (p.route && (p.top_k > kMostRoutedChoices || p.route->num_groups > kMostRoutedChoices))
        unsupported(device, "`route` with top_k {} and {} groups, expected at most {} of both", p.top_k,
                    p.route->num_groups, kMostRoutedChoices);
    if (p.hidden > kMaxSize || p.intermediate > kMaxSize)
        unsupported(device, "hidden {} and intermediate {} must not exceed {}", p.hidden, p.intermediate, kMaxSize);
}

using Heuristic = std::function<std::string(std::int64_t tokens)>;

/// The variant where no table knows the problem: from logits that of the same problem from ids, which a table may know.
Heuristic heuristic_of(const FusedMoeProblem& p, Device device, const PlanOptions& options, const Heuristic& plain,
                       const std::vector<std::string>& legal) {
    if (!p.route) return plain;
    FusedMoeProblem from_ids = p;
    from_ids.route.reset();
    PlanOptions free = options;
    free.variant.clear();
    const auto state = std::make_shared<detail::PlanState>();
    choose_into(*state, kOp, device, p.max_tokens, free, problem_key(from_ids), legal, plain);
    return [state](std::int64_t tokens) { return state->variants[state->row_variants[state->row_index(tokens)]]; };
}

/// Keeps a launch for every legal variant, in their order.
void freeze_all(FusedMoeState& state, const LegalVariants& legal, const DeviceInfo& info) {
    const FusedMoeProblem& p = state.problem;
    FusedMoeCuda& cuda = state.cuda;
    const bool takes_logits = p.route && routes_in_registers(p);
    for (const DecodeVariant& variant : legal.decode) {
        cuda.launches.push_back(freeze(*decode_instance(p.weights, p.quantize_activations), variant, info));
        if (!takes_logits) continue;
        const auto instance = decode_logits_instance(p.weights, p.quantize_activations);
        cuda.launches.back().logits_kernel = freeze(*instance, variant, info).kernel;
    }
    for (const DecodeVariant& variant : legal.gather)
        cuda.launches.push_back(freeze(*gather_instance(p.weights, p.quantize_activations), variant, info));
    for (GroupedVariant variant : legal.grouped) {
        if (!p.route) variant.instance.waiting_kernel = nullptr;
        cuda.grouped.push_back(freeze(variant, cuda.args, info));
    }
    for (const WideVariant& variant : legal.wide) cuda.wide.push_back(freeze(variant, cuda.atomic, info));
    for (const SingleVariant& variant : legal.single)
        cuda.single.push_back(freeze(*single_instance(p.weights, p.quantize_activations), variant, cuda.args, info));
}

}  // namespace

void require(const FusedMoeProblem& problem, Device device) {
    const DeviceInfo& info = existing_device(device);
    if (info.compute_capability != 90)
        unsupported(device, "compute capability {}, the kernels are for 90 (Hopper)", info.compute_capability);
    require_options(problem, device);
    const FusedMoeCuda smallest{.grid = info.multiprocessors, .pass_tokens = 1, .grid_pass_tokens = 1};
    const LegalVariants legal = legal_variants(problem, smallest, info, {});
    if (legal.decode.empty() && legal.grouped.empty() && legal.wide.empty())
        unsupported(device,
                    "hidden {}, intermediate {}, {} experts and top_k {} do not fit into {} bytes of shared memory",
                    problem.hidden, problem.intermediate, problem.num_experts, problem.top_k, info.shared_memory_bytes);
}

void plan_fused_moe(FusedMoeState& state, const PlanOptions& options) {
    const FusedMoeProblem& p = state.problem;
    const Device device = state.device;
    const DeviceInfo& info = device_info(device);
    FusedMoeCuda& cuda = state.cuda;
    cuda.grid = options.max_sms > 0 ? std::min(options.max_sms, info.multiprocessors) : info.multiprocessors;
    cuda.pass_tokens = pass_tokens(p, options, cuda, false);
    cuda.grid_pass_tokens = pass_tokens(p, options, cuda, true);
    cuda.atomic = options.combine == Combine::atomic && !p.batched_experts;  // whose rows have one result each
    cuda.slot_experts = wide_slot_experts(p, options);
    cuda.wide_tokens = wide_tokens(p, options, cuda);
    cuda.gather_tokens = gather_pass_tokens(p);
    if (cuda.pass_tokens < p.max_tokens) cuda.gather_tokens = std::min(cuda.gather_tokens, cuda.pass_tokens);
    const LegalVariants legal = legal_variants(p, cuda, info, options);
    if (legal.names().empty())  // `require` had all multiprocessors
        unsupported(device, "weights {} take {} multiprocessors at least, `max_sms` is {}", weights_text(p),
                    kLeastConvertingGrid, options.max_sms);
    const auto heuristic = heuristic_of(
        p, device, options, [&](std::int64_t tokens) { return default_variant(p, cuda, legal, tokens); },
        legal.names());
    choose_into(state, kOp, device, p.max_tokens, options, problem_key(p), legal.names(), heuristic,
                environment::kMoeConfig);
    state.refused = refused_variants(p, cuda, info, legal);
    const DeviceGuard guard(device.index);
    if (p.route) cuda.route_rows = plan_route_first();
    if (p.batched_experts) plan_name_experts();
    cuda.args = problem_args(state);
    freeze_all(state, legal, info);
    lay_out_workspace(state);
    check_workspace_limit(kOp, options, state.layout.size());
}

void run_fused_moe(const FusedMoeState& state, const FusedMoeArgs& args, const Workspace& workspace, Stream stream) {
    if (args.tokens == 0) return;
    const KernelOfVariant kernel = state.cuda.kernel_of(state.row_variants[state.row_index(args.tokens)], args.tokens);
    DecodeArgs common = state.cuda.args;
    add_call(state, args, workspace, common);
    const DeviceGuard guard(state.device.index);
    if (state.problem.route && kernel.takes_ids) {
        const bool crowded = kernel.grouped != nullptr && kernel.grouped->waiting_kernel != nullptr;
        route_first(state, workspace, stream, crowded ? kCrowdedRowWarps : kFittingRowWarps, common);
    }
    if (state.problem.batched_experts) name_experts_first(state, args.expert_rows, workspace, stream, common);
    if (kernel.decode != nullptr) return run_decode(state, *kernel.decode, common, stream);
    if (kernel.grouped != nullptr) return run_grouped(state, *kernel.grouped, common, workspace, stream);
    if (kernel.wide != nullptr) return run_wide(state, *kernel.wide, common, workspace, stream);
    run_single(state, *kernel.single, common, workspace, stream);
}

}  // namespace tokamak::moe::cuda
