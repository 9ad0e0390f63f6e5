// SPDX-License-Identifier: Apache-2.0
#include "moe/cuda/small/small_operators.h"

#include <algorithm>
#include <string>

#include "core/choose.h"
#include "core/throw.h"
#include "cuda/check.h"
#include "moe/cuda/small/kernels.h"

namespace tokamak::moe::cuda {
namespace {

using tokamak::cuda::check;
using tokamak::cuda::DeviceGuard;

constexpr const char* kVariant = "cuda";
constexpr int kMaxSms = 1 << 20;  ///< no limit

void choose(detail::PlanState& state, const char* op, Device device, std::int64_t max_tokens,
            const PlanOptions& options) {
    choose_into(state, op, device, max_tokens, options, {}, {kVariant},
                [](std::int64_t) { return std::string(kVariant); });
}

const std::int32_t* optional_ints(const Tensor& tensor) { return tensor.present ? tensor.as<std::int32_t>() : nullptr; }

/// Whether the last dimension is whole 16-byte vectors that start at multiples of 16 bytes.
bool is_vectors(const Tensor& tensor) {
    const auto size = size_of(tensor.dtype);
    std::size_t bits = reinterpret_cast<std::uintptr_t>(tensor.data);
    for (int d = 0; d + 1 < tensor.rank; ++d) bits |= static_cast<std::size_t>(tensor.stride(d)) * size;
    bits |= static_cast<std::size_t>(tensor.size(tensor.rank - 1)) * size;
    return bits % 16 == 0;
}

RouteParams problem_params(const RouteProblem& p) {
    RouteParams params;
    params.experts = p.num_experts;
    params.top_k = p.top_k;
    params.groups = p.num_groups;
    params.top_groups = p.top_groups;
    params.factor = p.routed_scaling_factor;
    params.logits_dtype = p.logits_dtype;
    params.weights_dtype = p.weights_dtype;
    params.wide_ids = p.ids_dtype == DType::i64;
    params.softmax = p.method == RouteMethod::softmax;
    params.renormalize = p.renormalize;
    return params;
}

}  // namespace

void require_small(const char* op, Device device) {
    const auto refuse = [&](const std::string& reason) {
        fail(ErrorCode::unsupported, "moe::{} on {}: {}", op, to_string(device), reason);
    };
    int capability = 0;
    try {
        capability = device_info(device).compute_capability;
    } catch (const Error& error) {
        refuse(error.what());
    }
    if (capability != 90) refuse(fmt::format("compute capability {}, the kernels are for 90 (Hopper)", capability));
}

void plan_small(detail::TypedState<RouteProblem>& state, Device device, const PlanOptions& options) {
    choose(state, "route", device, state.problem.max_tokens, options);
    const DeviceGuard guard(device.index);
    check(prepare_route(problem_params(state.problem)), "loading the route kernel");
}

void plan_small(detail::TypedState<AlignProblem>& state, Device device, const PlanOptions& options) {
    choose(state, "align", device, state.problem.max_tokens, options);
    const DeviceGuard guard(device.index);
    check(prepare_align(), "loading the align kernel");
}

void plan_small(detail::TypedState<SumReduceProblem>& state, Device device, const PlanOptions& options) {
    choose(state, "sum_reduce", device, state.problem.max_tokens, options);
    const DeviceGuard guard(device.index);
    SumReduceParams params;
    params.dtype = state.problem.dtype;
    params.top_k = state.problem.top_k;
    check(prepare_sum_reduce(params), "loading the sum_reduce kernel");
}

void run_small(const detail::TypedState<RouteProblem>& state, const RouteArgs& args, Stream stream) {
    if (args.tokens == 0) return;
    RouteParams params = problem_params(state.problem);
    params.logits = args.logits.data;
    params.logits_stride = args.logits.stride(0);
    params.bias = args.correction_bias.present ? args.correction_bias.as<float>() : nullptr;
    params.weights = args.weights.data;
    params.weights_stride = args.weights.stride(0);
    params.ids = args.ids.data;
    params.ids_stride = args.ids.stride(0);
    params.num_tokens = optional_ints(args.num_tokens);
    params.tokens = args.tokens;
    const DeviceGuard guard(state.device.index);
    check(launch_route(params, state.options.max_sms, stream.handle), "route launch");
}

void run_small(const detail::TypedState<AlignProblem>& state, const AlignArgs& args, Stream stream) {
    const AlignProblem& p = state.problem;
    const AlignSizes sizes = align_sizes(p, args.tokens);
    AlignParams params;
    params.ids = args.ids.data;
    params.ids_stride = args.ids.stride(0);
    params.wide_ids = p.ids_dtype == DType::i64;
    params.expert_map = optional_ints(args.expert_map);
    params.num_tokens = optional_ints(args.num_tokens);
    params.sorted = args.sorted_token_ids.as<std::int32_t>();
    params.block_experts = args.expert_ids.as<std::int32_t>();
    params.post_padded = args.num_tokens_post_padded.as<std::int32_t>();
    params.tokens = args.tokens;
    params.pad_id = static_cast<std::int32_t>(sizes.pad_id);
    params.max_padded = static_cast<std::int32_t>(sizes.max_padded);
    params.max_blocks = static_cast<std::int32_t>(sizes.max_blocks);
    params.top_k = p.top_k;
    params.block_size = p.block_size;
    params.local_experts = p.num_experts;
    params.global_experts = p.num_global_experts > 0 ? p.num_global_experts : p.num_experts;
    params.bins = p.num_experts + (p.non_local == NonLocal::ghost ? 1 : 0);
    const int max_ctas = state.options.max_sms > 0 ? state.options.max_sms : kMaxSms;
    params.split = align_split(sizes.pad_id, sizes.max_padded, params.bins, max_ctas);
    params.by_top_k = FullDivisor(static_cast<std::uint32_t>(p.top_k));
    params.by_block = FullDivisor(static_cast<std::uint32_t>(p.block_size));
    const DeviceGuard guard(state.device.index);
    check(launch_align(params, stream.handle), "align launch");
}

void run_small(const detail::TypedState<SumReduceProblem>& state, const SumReduceArgs& args, Stream stream) {
    if (args.tokens == 0) return;
    const SumReduceProblem& p = state.problem;
    SumReduceParams params;
    params.y = args.y.data;
    params.y_token_stride = args.y.stride(0);
    params.y_slot_stride = args.y.stride(1);
    params.out = args.out.data;
    params.out_stride = args.out.stride(0);
    if (args.weights.present) {
        params.weights = args.weights.data;
        params.weights_stride = args.weights.stride(0);
        params.weights_dtype = args.weights.dtype;
    }
    params.num_tokens = optional_ints(args.num_tokens);
    params.tokens = args.tokens;
    params.hidden = p.hidden;
    params.top_k = p.top_k;
    params.factor = p.routed_scaling_factor;
    params.dtype = p.dtype;
    params.vectors = is_vectors(args.y) && is_vectors(args.out);
    const DeviceGuard guard(state.device.index);
    check(launch_sum_reduce(params, state.options.max_sms, stream.handle), "sum_reduce launch");
}

}  // namespace tokamak::moe::cuda
