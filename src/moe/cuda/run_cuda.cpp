// SPDX-License-Identifier: Apache-2.0
// Freezes a plan for the decode kernel, and launches it.
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
#include "moe/fused_moe_state.h"
#include "moe/problem_checks.h"

namespace tokamak::moe::cuda {
namespace {

using tokamak::cuda::check;
using tokamak::cuda::DeviceGuard;

constexpr const char* kOp = "fused_moe";
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
    if (!decode_instance(p.weights, p.quantize_activations))
        unsupported(device, "weights {} have no CUDA kernel", to_string(p.weights));
    if (p.act_dtype != DType::bf16)
        unsupported(device, "`act_dtype` is {}, the CUDA kernels take bf16", to_string(p.act_dtype));
    if (p.out_dtype == DType::f64) unsupported(device, "`out_dtype` f64 is the CPU oracle's alone");
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
            .strips = Divisor(layout.strips),
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
    if (p.routing_weight != RoutingWeight::none) a.weights = rows_of(args.weights);
    a.weight_input = p.routing_weight == RoutingWeight::input;
    a.expert_map = args.expert_map.present ? args.expert_map.as<std::int32_t>() : nullptr;
    a.first_expert = args.first_expert;
    a.num_experts = p.num_experts;
    a.local_experts = state.local_experts;
    a.top_k = Divisor(p.top_k);
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

/// Everything that fixes the problem but max_tokens.
std::string problem_key(const FusedMoeProblem& p, int local_experts) {
    return fmt::format("experts={}/{} hidden={} intermediate={} top_k={} weights={}", local_experts, p.num_experts,
                       p.hidden, p.intermediate, p.top_k,
                       to_string(p.weights) + (p.quantize_activations ? " quantized" : ""));
}

/// Loads the kernel, allows it all shared memory and makes sure that a CTA fits on an SM, as the grid barrier needs.
DecodeLaunch freeze(const DecodeInstance& instance, const DecodeVariant& variant, const DeviceInfo& info) {
    const DecodeLaunch launch{instance.kernel,    instance.warps * 32, variant.gate_up_teams,
                              variant.down_teams, variant.slots,       variant.shared};
    check(cudaFuncSetAttribute(instance.kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                               static_cast<int>(info.shared_memory_bytes)),
          "cudaFuncSetAttribute");
    int ctas = 0;
    check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&ctas, instance.kernel, launch.threads,
                                                        static_cast<std::size_t>(variant.shared.bytes)),
          "cudaOccupancyMaxActiveBlocksPerMultiprocessor");
    if (ctas < 1) fail(ErrorCode::internal, "{}: variant {} does not fit on an SM", kOp, variant.name);
    return launch;
}

/// The workspace of a pass is the same for every variant; smaller batches need less.
void lay_out_workspace(FusedMoeState& state) {
    const FusedMoeProblem& p = state.problem;
    const auto routes = static_cast<std::size_t>(std::min<std::int64_t>(p.max_tokens, kPassTokens) * p.top_k);
    const std::size_t value_bytes = p.quantize_activations ? 4 : 2;
    state.cuda.intermediate = state.layout.add<std::byte>(
        "intermediate", routes * static_cast<std::size_t>(intermediate_stride(p)) * value_bytes);
    state.cuda.partials = state.layout.add<float>("partials", routes * static_cast<std::size_t>(p.hidden));
}

}  // namespace

void require(const FusedMoeProblem& problem, Device device) {
    const DeviceInfo& info = existing_device(device);
    if (info.compute_capability != 90)
        unsupported(device, "compute capability {}, the kernels are for 90 (Hopper)", info.compute_capability);
    require_options(problem, device);
    const DecodeInstance instance = *decode_instance(problem.weights, problem.quantize_activations);
    if (decode_variants(instance, problem, info.shared_memory_bytes).empty())
        unsupported(device,
                    "hidden {}, intermediate {}, top_k {} need {} bytes of shared memory, the device has {}: eight "
                    "token rows must fit",
                    problem.hidden, problem.intermediate, problem.top_k, least_shared_bytes(instance, problem),
                    info.shared_memory_bytes);
}

void plan_fused_moe(FusedMoeState& state, const PlanOptions& options) {
    const FusedMoeProblem& p = state.problem;
    const Device device = state.device;
    const DeviceInfo& info = device_info(device);
    const DecodeInstance instance = *decode_instance(p.weights, p.quantize_activations);
    const auto variants = decode_variants(instance, p, info.shared_memory_bytes);
    state.cuda.grid = options.max_sms > 0 ? std::min(options.max_sms, info.multiprocessors) : info.multiprocessors;
    std::vector<std::string> names;
    for (const DecodeVariant& variant : variants) names.push_back(variant.name);
    const auto heuristic = [&](std::int64_t tokens) {
        return names[choose_variant(instance, variants, p, state.cuda.grid, tokens)];
    };
    choose_into(state, kOp, device, p.max_tokens, options, problem_key(p, state.local_experts), names, heuristic,
                environment::kMoeConfig);
    const DeviceGuard guard(device.index);
    for (const DecodeVariant& variant : variants) state.cuda.launches.push_back(freeze(instance, variant, info));
    lay_out_workspace(state);
    check_workspace_limit(kOp, options, state.layout.size());
}

void run_fused_moe(const FusedMoeState& state, const FusedMoeArgs& args, const Workspace& workspace, Stream stream) {
    if (args.tokens == 0) return;
    const DecodeLaunch& launch = state.cuda.launches[state.row_variants[state.row_index(args.tokens)]];
    DecodeArgs kernel = kernel_args(state, args, workspace);
    kernel.shared = launch.shared;
    kernel.gate_up_teams = DecodeTeams(launch.threads / 32, launch.gate_up_teams);
    kernel.down_teams = DecodeTeams(launch.threads / 32, launch.down_teams);
    kernel.slots = launch.slots;
    void* parameters[] = {&kernel};
    const DeviceGuard guard(state.device.index);
    check(cudaLaunchCooperativeKernel(launch.kernel, dim3(static_cast<unsigned>(state.cuda.grid)),
                                      dim3(static_cast<unsigned>(launch.threads)), parameters,
                                      static_cast<std::size_t>(launch.shared.bytes), stream.handle),
          "fused_moe launch");
}

}  // namespace tokamak::moe::cuda
