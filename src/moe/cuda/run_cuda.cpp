// SPDX-License-Identifier: Apache-2.0
// Freezes a plan for the decode and grouped kernels, and launches them.
#include <cuda_runtime_api.h>

#include <algorithm>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "core/choose.h"
#include "core/environment.h"
#include "core/throw.h"
#include "cuda/check.h"
#include "moe/cuda/decode_plan.h"
#include "moe/cuda/grouped/grouped_plan.h"
#include "moe/cuda/wide/wide_plan.h"
#include "moe/fused_moe_state.h"
#include "moe/problem_checks.h"
#include "moe/problem_key.h"
#include "moe/routing_args.h"

namespace tokamak::moe::cuda {
namespace {

using tokamak::cuda::check;
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
    if (!decode_instance(p.weights, p.quantize_activations) &&
        grouped_instances(p.weights, p.quantize_activations).empty())
        unsupported(device, "weights {} have no CUDA kernel", to_string(p.weights));
    if (p.act_dtype != DType::bf16)
        unsupported(device, "`act_dtype` is {}, the CUDA kernels take bf16", to_string(p.act_dtype));
    if (p.out_dtype == DType::f64) unsupported(device, "`out_dtype` f64 is the CPU oracle's alone");
    if (p.route && (p.top_k > kMostRoutedChoices || p.route->num_groups > kMostRoutedChoices))
        unsupported(device, "`route` with top_k {} and {} groups, expected at most {} of both", p.top_k,
                    p.route->num_groups, kMostRoutedChoices);
    if (p.hidden > kMaxSize || p.intermediate > kMaxSize)
        unsupported(device, "hidden {} and intermediate {} must not exceed {}", p.hidden, p.intermediate, kMaxSize);
}

DecodeRows rows_of(const Tensor& tensor) {
    if (!tensor.present) return {};
    return {tensor.data, tensor.stride(0), tensor.dtype};
}

DecodeMatrix matrix_of(const Tensor& packed, const Tensor& bias, const PackedLayout& layout) {
    return {.packed = packed.as<std::uint8_t>(),
            .expert_bytes = packed.stride(0),
            .bias = rows_of(bias),
            .cols = static_cast<int>(layout.cols),
            .padded_cols = static_cast<int>(layout.tiles * layout.tile_cols),
            .row_vectors = Divisor(layout.tiles * layout.tile_cols / 8),
            .strip_bytes = static_cast<std::int64_t>(layout.strip_bytes),
            .strips = static_cast<int>(layout.strips),
            .by_strips = Divisor(layout.strips),
            .tiles = static_cast<int>(layout.tiles)};
}

bool vector_rows(const Tensor& x) {
    return reinterpret_cast<std::uintptr_t>(x.data) % 16 == 0 && x.stride(0) * 2 % 16 == 0;
}

/// Rows of the intermediate begin at 16 bytes.
std::int64_t intermediate_stride(const FusedMoeProblem& p) { return (p.intermediate + 7) / 8 * 8; }

DecodeArgs kernel_args(const FusedMoeState& state, const FusedMoeArgs& args, const Workspace& workspace) {
    const FusedMoeProblem& p = state.problem;
    DecodeArgs a;
    a.tokens = args.tokens;
    a.num_tokens = args.num_tokens.present ? args.num_tokens.as<std::int32_t>() : nullptr;
    a.x = args.x.data;
    a.x_stride = args.x.stride(0);
    a.x_vectors = vector_rows(args.x);
    a.ids = rows_of(args.ids);
    if (p.route)
        a.route = {.logits = rows_of(args.logits),
                   .bias = args.correction_bias.present ? args.correction_bias.as<float>() : nullptr,
                   .softmax = p.route->method == RouteMethod::softmax,
                   .renormalize = p.route->renormalize,
                   .weighted = p.routing_weight != RoutingWeight::none,
                   .factor = p.route->routed_scaling_factor,
                   .groups = p.route->num_groups,
                   .top_groups = p.route->top_groups};
    if (p.routing_weight != RoutingWeight::none) a.weights = rows_of(args.weights);
    a.weight_input = p.routing_weight == RoutingWeight::input;
    a.expert_map = args.expert_map.present ? args.expert_map.as<std::int32_t>() : nullptr;
    a.first_expert = args.first_expert;
    a.num_experts = p.num_experts;
    a.local_experts = state.local_experts;
    a.top_k = p.top_k;
    a.by_top_k = Divisor(p.top_k);
    a.grid = Divisor(state.cuda.grid);
    a.gate_up = matrix_of(args.gate_up, args.gate_up_bias, state.gate_up);
    a.down = matrix_of(args.down, args.down_bias, state.down);
    a.activation = p.activation;
    a.shared_output = rows_of(args.shared_output);
    a.out = args.out.data;
    a.out_stride = args.out.stride(0);
    a.out_dtype = p.out_dtype;
    a.accumulate = args.accumulate_into_out;
    a.intermediate = state.cuda.intermediate.in(workspace);
    a.intermediate_stride = intermediate_stride(p);
    a.partials = state.cuda.partials.in(workspace);
    return a;
}

/// Loads a kernel, allows it all shared memory and makes sure that a CTA fits on an SM, as the grid barrier needs.
void load(const void* kernel, int threads, int shared_bytes, const std::string& name, const DeviceInfo& info) {
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                               static_cast<int>(info.shared_memory_bytes)),
          "cudaFuncSetAttribute");
    int ctas = 0;
    check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&ctas, kernel, threads, static_cast<std::size_t>(shared_bytes)),
          "cudaOccupancyMaxActiveBlocksPerMultiprocessor");
    if (ctas < 1) fail(ErrorCode::internal, "{}: variant {} does not fit on an SM", kOp, name);
}

DecodeLaunch freeze(const DecodeInstance& instance, const DecodeVariant& variant, const DeviceInfo& info) {
    const DecodeLaunch launch{instance.kernel,    instance.warps * 32, variant.gate_up_teams,
                              variant.down_teams, variant.slots,       variant.shared};
    load(launch.kernel, launch.threads, launch.shared.bytes, variant.name, info);
    return launch;
}

GroupedLaunch freeze(const GroupedVariant& variant, const DeviceInfo& info) {
    const GroupedInstance& instance = variant.instance;
    load(instance.kernel, instance.threads, variant.shared.bytes, instance.name, info);
    return {instance.kernel, instance.threads, variant.stages, variant.shared};
}

WideLaunch freeze(const WideVariant& variant, const DeviceInfo& info) {
    const WideInstance& instance = variant.instance;
    load(instance.kernel, instance.threads, variant.shared.bytes, instance.name, info);
    return {instance.kernel, instance.threads, variant.stages, variant.shared};
}

/// Books the workspace of passes of `tokens` tokens.
void lay_out_pass(const FusedMoeProblem& p, std::int64_t tokens, WorkspaceLayout& layout, FusedMoeCuda& cuda) {
    const auto routes = static_cast<std::size_t>(tokens * p.top_k);
    const bool fp8 = p.weights.format == WeightFormat::fp8_block;  // rows are prepared, the intermediate from f32
    const std::size_t value_bytes = fp8 ? 4 : 2;
    // The wide kernel keeps whole blocks of columns, and its rows of x in the place of the partial sums.
    const auto padded = [](std::int64_t cols) { return static_cast<std::size_t>((cols + 127) / 128 * 128); };
    if (fp8) {
        const auto groups = static_cast<std::size_t>((std::max(p.hidden, p.intermediate) + 127) / 128);
        cuda.prepared_rows = layout.add<std::uint16_t>("prepared_rows", routes * groups * 128);
        cuda.row_scales = layout.add<float>("row_scales", routes * groups);
    }
    cuda.intermediate = layout.add<std::byte>("intermediate", routes * padded(p.intermediate) * value_bytes);
    const std::size_t partial_cols = std::max(static_cast<std::size_t>(p.hidden), padded(p.hidden) / 2);
    cuda.partials = layout.add<float>("partials", routes * partial_cols);
}

/// Books the lists of launches of the wide kernel, of `tokens` tokens each.
void lay_out_wide(const FusedMoeProblem& p, std::int64_t tokens, WorkspaceLayout& layout, FusedMoeCuda& cuda) {
    const auto experts = static_cast<std::size_t>(resolve_local_experts(p.num_experts, p.num_local_experts));
    cuda.wide_list = layout.add<std::int32_t>("wide_list", static_cast<std::size_t>(tokens * p.top_k));
    cuda.wide_counts = layout.add<std::int32_t>("wide_counts", static_cast<std::size_t>(cuda.grid) * experts);
}

/// Passes shrink to what `max_workspace_bytes` allows; those of the decode kernel have their size.
std::int64_t fitting_tokens(std::int64_t most, const PlanOptions& options,
                            const std::function<void(std::int64_t, WorkspaceLayout&)>& lay_out) {
    const auto fits = [&](std::int64_t tokens) {
        WorkspaceLayout layout;
        lay_out(tokens, layout);
        return layout.size().bytes <= options.max_workspace_bytes;
    };
    if (options.max_workspace_bytes == 0 || fits(most)) return most;
    std::int64_t low = std::min<std::int64_t>(most, kPassTokens);  // taken as fitting
    std::int64_t high = most;
    while (high - low > 1) {
        const std::int64_t middle = (low + high) / 2;
        (fits(middle) ? low : high) = middle;
    }
    return low;
}

std::int64_t pass_tokens(const FusedMoeProblem& p, const PlanOptions& options) {
    return fitting_tokens(most_pass_tokens(p), options, [&](std::int64_t tokens, WorkspaceLayout& layout) {
        FusedMoeCuda unused;
        lay_out_pass(p, tokens, layout, unused);
    });
}

std::int64_t wide_tokens(const FusedMoeProblem& p, const PlanOptions& options, int grid) {
    return fitting_tokens(most_wide_tokens(p, grid), options, [&](std::int64_t tokens, WorkspaceLayout& layout) {
        FusedMoeCuda unused;
        unused.grid = grid;
        lay_out_pass(p, tokens, layout, unused);
        lay_out_wide(p, tokens, layout, unused);
    });
}

/// The largest pass of the variants in the plan's table.
void lay_out_workspace(FusedMoeState& state) {
    std::int64_t tokens = std::min<std::int64_t>(state.problem.max_tokens, kPassTokens);
    const std::size_t decode = state.cuda.launches.size();
    bool wide = false;
    for (const std::size_t variant : state.row_variants) {
        const bool is_wide = variant >= decode + state.cuda.grouped.size();
        if (variant >= decode) tokens = std::max(tokens, is_wide ? state.cuda.wide_tokens : state.cuda.pass_tokens);
        wide = wide || is_wide;
    }
    lay_out_pass(state.problem, tokens, state.layout, state.cuda);
    if (wide) lay_out_wide(state.problem, state.cuda.wide_tokens, state.layout, state.cuda);
}

std::vector<DecodeVariant> legal_decode_variants(const FusedMoeProblem& p, const DeviceInfo& info) {
    const auto instance = decode_instance(p.weights, p.quantize_activations);
    if (!instance) return {};
    return decode_variants(*instance, p, info.shared_memory_bytes);
}

/// The grouped kernel takes ids, not logits.
std::vector<GroupedVariant> legal_grouped_variants(const FusedMoeProblem& p, std::int64_t pass,
                                                   const DeviceInfo& info) {
    if (p.route) return {};
    return grouped_variants(p, pass, info.shared_memory_bytes);
}

/// So does the wide kernel.
std::vector<WideVariant> legal_wide_variants(const FusedMoeProblem& p, const DeviceInfo& info) {
    if (p.route) return {};
    return wide_variants(p, info.shared_memory_bytes);
}

void launch(const void* kernel, int grid, int threads, int shared_bytes, void* args, Stream stream) {
    void* parameters[] = {args};
    check(cudaLaunchCooperativeKernel(kernel, dim3(static_cast<unsigned>(grid)), dim3(static_cast<unsigned>(threads)),
                                      parameters, static_cast<std::size_t>(shared_bytes), stream.handle),
          "fused_moe launch");
}

void run_decode(const FusedMoeState& state, const DecodeLaunch& choice, const DecodeArgs& common, Stream stream) {
    DecodeArgs args = common;
    args.shared = choice.shared;
    args.gate_up_teams = DecodeTeams(choice.threads / 32, choice.gate_up_teams);
    args.down_teams = DecodeTeams(choice.threads / 32, choice.down_teams);
    args.slots = choice.slots;
    launch(choice.kernel, state.cuda.grid, choice.threads, choice.shared.bytes, &args, stream);
}

void run_grouped(const FusedMoeState& state, const GroupedLaunch& choice, const DecodeArgs& common,
                 const Workspace& workspace, Stream stream) {
    GroupedArgs args;
    static_cast<DecodeArgs&>(args) = common;
    if (args.weight_input) std::swap(args.input_weights, args.weights);
    args.prepared_rows = state.cuda.prepared_rows.in(workspace);
    args.row_scales = state.cuda.row_scales.in(workspace);
    args.pass_tokens = static_cast<int>(state.cuda.pass_tokens);
    args.stages = choice.stages;
    args.lists = choice.shared;
    launch(choice.kernel, state.cuda.grid, choice.threads, choice.shared.bytes, &args, stream);
}

/// One launch for each pass; those past the tokens on the device end at once.
void run_wide(const FusedMoeState& state, const WideLaunch& choice, const DecodeArgs& common,
              const Workspace& workspace, Stream stream) {
    WideArgs args;
    static_cast<DecodeArgs&>(args) = common;
    if (args.weight_input) std::swap(args.input_weights, args.weights);
    args.list = state.cuda.wide_list.in(workspace);
    args.counts = state.cuda.wide_counts.in(workspace);
    args.stages = choice.stages;
    args.lists = choice.shared;
    for (std::int64_t first = 0; first < args.tokens; first += state.cuda.wide_tokens) {
        args.first_token = first;
        args.pass_tokens = static_cast<int>(std::min(state.cuda.wide_tokens, args.tokens - first));
        launch(choice.kernel, state.cuda.grid, choice.threads, choice.shared.bytes, &args, stream);
    }
}

/// Whether the wide kernel is the faster for a call with uniform routing (docs/kernels/moe_wide.md). Where no grouped
/// kernel is, it competes with passes of the decode kernel.
bool prefers_wide(const FusedMoeProblem& p, std::int64_t tokens, bool has_grouped) noexcept {
    if (!has_grouped) return tokens > 2 * kPassTokens;
    const std::int64_t rows = p.weights.format == WeightFormat::bf16 ? 32 : 48;  // of an expert
    return tokens * p.top_k >= rows * p.num_experts;
}

/// Tokens up to which the decode kernel, which reads the weights again for every 8, is the faster. For fp8_block
/// measured when the grouped kernel's gathering warps still converted rows (16 tokens of qwen3.5-35b: 226 us, the
/// decode kernel 64 for each pass).
std::int64_t most_decode_tokens(const WeightSpec& spec) noexcept {
    return spec.format == WeightFormat::fp8_block ? 2 * kPassTokens : kPassTokens;
}

}  // namespace

void require(const FusedMoeProblem& problem, Device device) {
    const DeviceInfo& info = existing_device(device);
    if (info.compute_capability != 90)
        unsupported(device, "compute capability {}, the kernels are for 90 (Hopper)", info.compute_capability);
    require_options(problem, device);
    if (legal_decode_variants(problem, info).empty() && legal_grouped_variants(problem, 1, info).empty())
        unsupported(device,
                    "hidden {}, intermediate {}, {} experts and top_k {} do not fit into {} bytes of shared memory",
                    problem.hidden, problem.intermediate, problem.num_experts, problem.top_k, info.shared_memory_bytes);
}

void plan_fused_moe(FusedMoeState& state, const PlanOptions& options) {
    const FusedMoeProblem& p = state.problem;
    const Device device = state.device;
    const DeviceInfo& info = device_info(device);
    const std::vector<DecodeVariant> decode = legal_decode_variants(p, info);
    state.cuda.pass_tokens = pass_tokens(p, options);
    const std::vector<GroupedVariant> grouped = legal_grouped_variants(p, state.cuda.pass_tokens, info);
    const std::vector<WideVariant> wide = legal_wide_variants(p, info);
    state.cuda.grid = options.max_sms > 0 ? std::min(options.max_sms, info.multiprocessors) : info.multiprocessors;
    state.cuda.wide_tokens = wide_tokens(p, options, state.cuda.grid);
    std::vector<std::string> names;
    for (const DecodeVariant& variant : decode) names.push_back(variant.name);
    for (const GroupedVariant& variant : grouped) names.emplace_back(variant.instance.name);
    for (const WideVariant& variant : wide) names.emplace_back(variant.instance.name);
    const auto heuristic = [&](std::int64_t tokens) {
        if (!wide.empty() && prefers_wide(p, tokens, !grouped.empty())) return names[decode.size() + grouped.size()];
        if (decode.empty() || (tokens > most_decode_tokens(p.weights) && !grouped.empty())) return names[decode.size()];
        return names[choose_variant(*decode_instance(p.weights, p.quantize_activations), decode, p, state.cuda.grid,
                                    tokens)];
    };
    choose_into(state, kOp, device, p.max_tokens, options, problem_key(p), names, heuristic, environment::kMoeConfig);
    const DeviceGuard guard(device.index);
    for (const DecodeVariant& variant : decode)
        state.cuda.launches.push_back(freeze(*decode_instance(p.weights, p.quantize_activations), variant, info));
    for (const GroupedVariant& variant : grouped) state.cuda.grouped.push_back(freeze(variant, info));
    for (const WideVariant& variant : wide) state.cuda.wide.push_back(freeze(variant, info));
    lay_out_workspace(state);
    check_workspace_limit(kOp, options, state.layout.size());
}

void run_fused_moe(const FusedMoeState& state, const FusedMoeArgs& args, const Workspace& workspace, Stream stream) {
    if (args.tokens == 0) return;
    const std::size_t variant = state.row_variants[state.row_index(args.tokens)];
    const DecodeArgs common = kernel_args(state, args, workspace);
    const DeviceGuard guard(state.device.index);
    const std::size_t decode = state.cuda.launches.size();
    if (variant < decode)
        run_decode(state, state.cuda.launches[variant], common, stream);
    else if (variant < decode + state.cuda.grouped.size())
        run_grouped(state, state.cuda.grouped[variant - decode], common, workspace, stream);
    else
        run_wide(state, state.cuda.wide[variant - decode - state.cuda.grouped.size()], common, workspace, stream);
}

}  // namespace tokamak::moe::cuda
