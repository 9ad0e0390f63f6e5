// SPDX-License-Identifier: Apache-2.0
// Freezes a plan for the decode and grouped kernels, and launches them.
#include <cuda_runtime_api.h>

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "core/choose.h"
#include "core/environment.h"
#include "core/throw.h"
#include "cuda/check.h"
#include "moe/cuda/decode_plan.h"
#include "moe/cuda/grouped/grouped_plan.h"
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
    return {instance.kernel, instance.threads, variant.stages, variant.shared, instance.grid_lists};
}

/// Books the workspace of passes of `tokens` tokens.
void lay_out_pass(const FusedMoeProblem& p, std::int64_t tokens, WorkspaceLayout& layout, FusedMoeCuda& cuda) {
    const auto routes = static_cast<std::size_t>(tokens * p.top_k);
    const bool fp8 = p.weights.format == WeightFormat::fp8_block;  // rows are prepared
    std::size_t row_bytes = static_cast<std::size_t>(intermediate_stride(p)) * (fp8 ? 4 : 2);
    if (fp8) {
        const auto row_groups = static_cast<std::size_t>((std::max(p.hidden, p.intermediate) + 127) / 128);
        const auto groups = static_cast<std::size_t>((p.intermediate + 127) / 128);
        const std::size_t rows = p.routing_weight == RoutingWeight::input ? routes : static_cast<std::size_t>(tokens);
        cuda.prepared_rows = layout.add<std::uint16_t>("prepared_rows", rows * row_groups * 128);
        cuda.row_scales = layout.add<float>("row_scales", rows * row_groups);
        cuda.intermediate_scales = layout.add<float>("intermediate_scales", routes * groups);
        cuda.tile_groups = layout.add<std::int32_t>("tile_groups", routes);
        row_bytes = std::max(row_bytes, groups * 256);
    }
    if (!grid_list_instances(p.weights, p.quantize_activations).empty()) {
        const auto experts = static_cast<std::size_t>(resolve_local_experts(p.num_experts, p.num_local_experts));
        cuda.grid_list = layout.add<std::int32_t>("grid_list", routes);
        cuda.grid_places = layout.add<std::uint32_t>("grid_places", routes);
        cuda.cta_counts = layout.add<std::int32_t>("cta_counts", experts * static_cast<std::size_t>(cuda.grid));
    }
    cuda.intermediate = layout.add<std::byte>("intermediate", routes * row_bytes);
    cuda.partials = layout.add<float>("partials", routes * static_cast<std::size_t>(p.hidden));
}

/// The grouped kernel's passes shrink to what `max_workspace_bytes` allows; those of the decode kernel have their size.
std::int64_t pass_tokens(const FusedMoeProblem& p, const PlanOptions& options, int grid, bool grid_lists) {
    const std::int64_t most = most_pass_tokens(p, grid_lists);
    const std::int64_t least = std::min<std::int64_t>(most, kPassTokens);
    const auto fits = [&](std::int64_t tokens) {
        WorkspaceLayout layout;
        FusedMoeCuda unused;
        unused.grid = grid;
        lay_out_pass(p, tokens, layout, unused);
        return layout.size().bytes <= options.max_workspace_bytes;
    };
    std::int64_t tokens = most;
    while (options.max_workspace_bytes != 0 && tokens > least && !fits(tokens)) --tokens;
    return tokens;
}

/// The largest pass of the variants in the plan's table.
void lay_out_workspace(FusedMoeState& state) {
    std::int64_t tokens = std::min<std::int64_t>(state.problem.max_tokens, kPassTokens);
    for (const std::size_t variant : state.row_variants)
        if (variant >= state.cuda.launches.size())
            tokens = std::max(tokens, state.cuda.grouped[variant - state.cuda.launches.size()].grid_lists
                                          ? state.cuda.grid_pass_tokens
                                          : state.cuda.pass_tokens);
    lay_out_pass(state.problem, tokens, state.layout, state.cuda);
}

std::vector<DecodeVariant> legal_decode_variants(const FusedMoeProblem& p, const DeviceInfo& info) {
    const auto instance = decode_instance(p.weights, p.quantize_activations);
    if (!instance) return {};
    return decode_variants(*instance, p, info.shared_memory_bytes);
}

/// The grouped kernel takes ids, not logits.
std::vector<GroupedVariant> legal_grouped_variants(const FusedMoeProblem& p, std::int64_t pass, std::int64_t grid_pass,
                                                   const DeviceInfo& info) {
    if (p.route) return {};
    std::vector<GroupedVariant> variants = grouped_variants(p, pass, info.shared_memory_bytes);
    for (const GroupedVariant& many : grid_list_variants(p, grid_pass, info.shared_memory_bytes))
        variants.push_back(many);
    return variants;
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
    args.intermediate_scales = state.cuda.intermediate_scales.in(workspace);
    args.tile_groups = state.cuda.tile_groups.in(workspace);
    args.grid_list = state.cuda.grid_list.in(workspace);
    args.grid_places = state.cuda.grid_places.in(workspace);
    args.cta_counts = state.cuda.cta_counts.in(workspace);
    args.pass_tokens = static_cast<int>(choice.grid_lists ? state.cuda.grid_pass_tokens : state.cuda.pass_tokens);
    args.stages = choice.stages;
    args.lists = choice.shared;
    const std::int64_t launch_tokens = choice.grid_lists ? args.pass_tokens : args.tokens;
    for (; args.first_token < args.tokens; args.first_token += launch_tokens)
        launch(choice.kernel, state.cuda.grid, choice.threads, choice.shared.bytes, &args, stream);
}

/// Tokens up to which the decode kernel, which reads the weights again for every 8, is the faster (16 tokens of
/// qwen3.5-35b with fp8_block: 104 us, the grouped kernel 95).
constexpr std::int64_t kMostDecodeTokens = kPassTokens;
/// Rows of an expert, on average, from which tiles of many rows pay: those of 64 would often need a second one. One
/// list of the grid alone does not (dsv3-ep8, 8192 routes: 462 us with lists of every CTA, 474 with one).
constexpr std::int64_t kManyRows = 44;

/// Index of the first grouped variant that suits so many tokens.
std::size_t choose_grouped(const std::vector<GroupedVariant>& variants, const FusedMoeProblem& p, std::int64_t pass,
                           std::int64_t tokens) {
    const bool many = tokens > pass || tokens * p.top_k > kManyRows * p.num_experts;
    for (std::size_t i = 0; i < variants.size(); ++i)
        if (variants[i].instance.grid_lists == many) return i;
    return 0;
}

}  // namespace

void require(const FusedMoeProblem& problem, Device device) {
    const DeviceInfo& info = existing_device(device);
    if (info.compute_capability != 90)
        unsupported(device, "compute capability {}, the kernels are for 90 (Hopper)", info.compute_capability);
    require_options(problem, device);
    if (legal_decode_variants(problem, info).empty() && legal_grouped_variants(problem, 1, 1, info).empty())
        unsupported(device,
                    "hidden {}, intermediate {}, {} experts and top_k {} do not fit into {} bytes of shared memory",
                    problem.hidden, problem.intermediate, problem.num_experts, problem.top_k, info.shared_memory_bytes);
}

void plan_fused_moe(FusedMoeState& state, const PlanOptions& options) {
    const FusedMoeProblem& p = state.problem;
    const Device device = state.device;
    const DeviceInfo& info = device_info(device);
    const std::vector<DecodeVariant> decode = legal_decode_variants(p, info);
    state.cuda.grid = options.max_sms > 0 ? std::min(options.max_sms, info.multiprocessors) : info.multiprocessors;
    state.cuda.pass_tokens = pass_tokens(p, options, state.cuda.grid, false);
    state.cuda.grid_pass_tokens = pass_tokens(p, options, state.cuda.grid, true);
    const std::vector<GroupedVariant> grouped =
        legal_grouped_variants(p, state.cuda.pass_tokens, state.cuda.grid_pass_tokens, info);
    std::vector<std::string> names;
    for (const DecodeVariant& variant : decode) names.push_back(variant.name);
    for (const GroupedVariant& variant : grouped) names.emplace_back(variant.instance.name);
    const auto heuristic = [&](std::int64_t tokens) {
        if (!grouped.empty() && (decode.empty() || tokens > kMostDecodeTokens))
            return names[decode.size() + choose_grouped(grouped, p, state.cuda.pass_tokens, tokens)];
        return names[choose_variant(*decode_instance(p.weights, p.quantize_activations), decode, p, state.cuda.grid,
                                    tokens)];
    };
    choose_into(state, kOp, device, p.max_tokens, options, problem_key(p), names, heuristic, environment::kMoeConfig);
    const DeviceGuard guard(device.index);
    for (const DecodeVariant& variant : decode)
        state.cuda.launches.push_back(freeze(*decode_instance(p.weights, p.quantize_activations), variant, info));
    for (const GroupedVariant& variant : grouped) state.cuda.grouped.push_back(freeze(variant, info));
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
    else
        run_grouped(state, state.cuda.grouped[variant - decode], common, workspace, stream);
}

}  // namespace tokamak::moe::cuda
