// SPDX-License-Identifier: Apache-2.0
#include "moe/cuda/routed/routed_gemm.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <bit>
#include <optional>
#include <string>

#include "core/choose.h"
#include "core/throw.h"
#include "cuda/check.h"
#include "moe/cuda/small/small_operators.h"
#include "moe/problem_checks.h"
#include "moe/routed_gemm_state.h"
#include "moe/routing_args.h"

namespace tokamak::moe::cuda {
namespace {

using tokamak::cuda::check;
using tokamak::cuda::DeviceGuard;

constexpr const char* kOp = "routed_gemm";
constexpr const char* kVariant = "mma";
constexpr std::int64_t kMaxSize = std::int64_t{1} << 24;  ///< rows and cols: counts of a pass fit an int

std::optional<routed::Instance> instance_of(const WeightSpec& spec) {
    const bool f16 = spec.scale_dtype == DType::f16;
    switch (spec.format) {
        case WeightFormat::bf16: return routed::bf16();
        case WeightFormat::fp8_block: return routed::fp8_block();
        case WeightFormat::mxfp4: return routed::mxfp4();
        case WeightFormat::nvfp4: return routed::nvfp4();
        case WeightFormat::int4: break;
    }
    switch (spec.group_size) {
        case 32: return f16 ? routed::int4_g32_f16() : routed::int4_g32();
        case 64: return f16 ? routed::int4_g64_f16() : routed::int4_g64();
        case 128: return f16 ? routed::int4_g128_f16() : routed::int4_g128();
        default: return std::nullopt;
    }
}

/// Bytes that sorting the routes of a pass takes in the rings' place.
int list_bytes(int experts) { return ((routed::kWarps + 1) * experts + routed::kMostPassRoutes / 2) * 4; }

routed::SharedLayout lay_out(const routed::Instance& instance, int experts) {
    routed::SharedLayout s;
    int end = std::max(instance.ring_bytes, list_bytes(experts));
    const auto take = [&end](int bytes) {
        const int offset = (end + 15) / 16 * 16;
        end = offset + bytes;
        return offset;
    };
    s.reduce = take(routed::kWarps * routed::kReduceTokens * routed::kReduceStride * 4);
    s.tiles = take(routed::kMostPassRoutes * static_cast<int>(sizeof(routed::RowTile)));
    s.list = take(routed::kMostPassRoutes * 2);
    s.local = take(routed::kMostPassRoutes * 2);
    s.barriers = take(instance.barriers * 8);
    s.counts = take(4);
    s.bytes = end;
    return s;
}

std::size_t partial_bytes(const RoutedGemmProblem& p, std::int64_t tokens) {
    return static_cast<std::size_t>(tokens * p.top_k * p.rows) * sizeof(float);
}

/// Tokens of a pass: results are the same bits whatever it is.
int choose_pass(const RoutedGemmProblem& p, const PlanOptions& options) {
    std::int64_t tokens = std::min<std::int64_t>(p.max_tokens, routed::kMostPassRoutes / p.top_k);
    if (options.max_workspace_bytes != 0 && tokens > 0) {
        const std::size_t of_one = partial_bytes(p, 1);
        if (of_one > options.max_workspace_bytes)
            invalid("{}: `max_workspace_bytes` is {}, the smallest workable limit is {}", kOp,
                    options.max_workspace_bytes, of_one);
        tokens = std::min(tokens, static_cast<std::int64_t>(options.max_workspace_bytes / of_one));
    }
    return static_cast<int>(std::max<std::int64_t>(tokens, 1));
}

routed::Matrix matrix_of(const Tensor& tensor) {
    if (!tensor.present) return {};
    return {tensor.data, tensor.stride(0), tensor.dtype};
}

bool vector_rows(const Tensor& x) {
    return reinterpret_cast<std::uintptr_t>(x.data) % 16 == 0 && x.stride(0) % 8 == 0 && x.size(1) % 8 == 0;
}

}  // namespace

void require(const RoutedGemmProblem& p, Device device) {
    require_small(kOp, device);
    const auto refuse = [&](const std::string& reason) {
        fail(ErrorCode::unsupported, "moe::{} on {}: {}", kOp, to_string(device), reason);
    };
    if (p.act_dtype != DType::bf16)
        refuse(fmt::format("`act_dtype` is {}, the CUDA kernels take bf16", to_string(p.act_dtype)));
    if (p.out_dtype == DType::f64) refuse("`out_dtype` f64 is the CPU oracle's alone");
    if (p.rows > kMaxSize || p.cols > kMaxSize)
        refuse(fmt::format("rows {} and cols {} must not exceed {}", p.rows, p.cols, kMaxSize));
    if (!instance_of(p.weights)) refuse(fmt::format("weights {} have no CUDA kernel", to_string(p.weights)));
}

void plan_routed_gemm(RoutedGemmState& state, Device device, const PlanOptions& options) {
    const RoutedGemmProblem& p = state.problem;
    choose_into(state, kOp, device, p.max_tokens, options, {}, {kVariant},
                [](std::int64_t) { return std::string(kVariant); });
    const DeviceInfo& info = device_info(device);
    const routed::Instance instance = *instance_of(p.weights);
    RoutedGemmCuda& c = state.cuda;
    c.kernel = instance.kernel;
    c.grid = options.max_sms > 0 ? std::min(options.max_sms, info.multiprocessors) : info.multiprocessors;
    c.pass_tokens = choose_pass(p, options);
    c.shared = lay_out(instance, state.local_experts);
    const DeviceGuard guard(device.index);
    check(cudaFuncSetAttribute(c.kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                               static_cast<int>(info.shared_memory_bytes)),
          "cudaFuncSetAttribute");
    int ctas = 0;
    check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&ctas, c.kernel, routed::kWarps * 32,
                                                        static_cast<std::size_t>(c.shared.bytes)),
          "cudaOccupancyMaxActiveBlocksPerMultiprocessor");
    if (ctas < 1) fail(ErrorCode::internal, "{}: {} bytes of shared memory do not fit an SM", kOp, c.shared.bytes);
    const auto routes = static_cast<std::size_t>(std::min<std::int64_t>(c.pass_tokens, p.max_tokens) * p.top_k);
    c.partials = state.layout.add<float>("partials", routes * static_cast<std::size_t>(p.rows));
}

void run_routed_gemm(const RoutedGemmState& state, const RoutedGemmArgs& args, const Workspace& workspace,
                     Stream stream) {
    if (args.tokens == 0) return;
    const RoutedGemmProblem& p = state.problem;
    const PackedLayout& layout = state.matrix;
    routed::Args a;
    a.tokens = args.tokens;
    a.num_tokens = args.num_tokens.present ? args.num_tokens.as<std::int32_t>() : nullptr;
    a.x = args.x.data;
    a.x_stride = args.x.stride(0);
    a.x_vectors = vector_rows(args.x);
    a.ids = matrix_of(args.ids);
    if (p.apply_routing_weight) a.weights = matrix_of(args.weights);
    a.expert_map = args.expert_map.present ? args.expert_map.as<std::int32_t>() : nullptr;
    a.first_expert = args.first_expert;
    a.num_experts = p.num_experts;
    a.local_experts = state.local_experts;
    a.expert_bits = std::bit_width(static_cast<unsigned>(state.local_experts));
    a.top_k = p.top_k;
    a.by_top_k = FullDivisor(static_cast<std::uint32_t>(p.top_k));
    a.packed = args.matrix.as<std::uint8_t>();
    a.expert_bytes = args.matrix.stride(0);
    a.strip_bytes = static_cast<std::int64_t>(layout.strip_bytes);
    a.rows = static_cast<int>(p.rows);
    a.cols = static_cast<int>(p.cols);
    a.strips = static_cast<int>(layout.strips);
    a.tiles = static_cast<int>(layout.tiles);
    a.out = args.out.data;
    a.out_stride = args.out.stride(0);
    a.out_dtype = p.out_dtype;
    a.partials = state.cuda.partials.in(workspace);
    a.pass_tokens = state.cuda.pass_tokens;
    a.shared = state.cuda.shared;
    void* parameters[] = {&a};
    const DeviceGuard guard(state.device.index);
    check(cudaLaunchCooperativeKernel(state.cuda.kernel, dim3(static_cast<unsigned>(state.cuda.grid)),
                                      dim3(routed::kWarps * 32), parameters,
                                      static_cast<std::size_t>(state.cuda.shared.bytes), stream.handle),
          "routed_gemm launch");
}

}  // namespace tokamak::moe::cuda
