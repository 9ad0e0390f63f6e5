// SPDX-License-Identifier: Apache-2.0
// sparse_attention on CUDA: which problems, which configuration for which token count, one launch.
#include <cuda_runtime_api.h>

#include <algorithm>
#include <iterator>

#include "core/choose.h"
#include "core/environment.h"
#include "core/throw.h"
#include "cuda/check.h"
#include "mla/cuda/backend.h"
#include "mla/cuda/device_support.h"
#include "mla/cuda/direct_decode/instances.h"
#include "mla/cuda/flat_decode/instances.h"
#include "mla/cuda/grid_decode/instances.h"
#include "mla/cuda/paired_codes/instances.h"
#include "mla/cuda/paired_decode/instances.h"
#include "mla/cuda/sparse_attention_args.h"
#include "mla/cuda/sparse_attention_choose.h"
#include "mla/cuda/sparse_decode/layout.h"
#include "mla/cuda/whole_decode/instances.h"
#include "mla/cuda/wide_decode/instances.h"
#include "mla/problem_key.h"
#include "mla/sparse_attention_state.h"

namespace tokamak::mla::cuda {
namespace {

namespace decode = sparse_decode;
using tokamak::cuda::check;

static_assert(kFewHeads == grid_decode::kGridHeads && kFewSplits == grid_decode::kGridSplits &&
              kFewRows == grid_decode::kGridRows && kGridRows == wide_decode::kMostShare);
static_assert(kWholeSplits == whole_decode::kWholeSplits && kWholeRows == whole_decode::kWholeRows);

constexpr std::size_t kSharedBytes = 232448;  ///< of a Hopper multiprocessor, for one block

/// A kernel, how it divides its memory, and how the heads are divided.
struct Kernel {
    decode::Kernel code;
    decode::SharedLayout shared;
    int pair = 1;         ///< 2: blocks with different heads share the conversion of rows
    int head_groups = 0;  ///< of a block, or of a pair
    int splits = 0;
    bool flat = false;
    bool wide = false;        ///< heads and splits, tokens
    bool paired = false;      ///< splits, heads, tokens
    int published_bytes = 0;  ///< of a block, in the workspace; 0: splits are a cluster
    [[nodiscard]] int cluster() const { return published_bytes > 0 ? 1 : splits * pair; }
};

/// A configuration made ready to launch.
struct Launch {
    Kernel aligned;                ///< for rows of one kind at addresses that are multiples of 16
    Kernel exact;                  ///< for the same if max_logits is asked for: single scores must be exact
    Kernel anywhere;               ///< for all other rows
    std::int64_t grid_tokens = 0;  ///< of a launch of `aligned`, if its blocks must run all at once
    [[nodiscard]] std::size_t published_bytes() const {
        return static_cast<std::size_t>(grid_tokens * aligned.head_groups * aligned.splits * aligned.published_bytes);
    }
};

struct DecodeState : detail::TypedState<SparseAttentionProblem> {
    std::vector<Launch> launches;  ///< one for each of `variants`
    Slice<std::byte> published;    ///< of the splits that are no cluster
};

bool all_fp8(const SparseAttentionProblem& problem) {
    for (const KvPool& pool : problem.pools)
        if (pool.format == KvFormat::bf16) return false;
    return true;
}

Kernel kernel_of(const SparseConfig& config, const SparseAttentionProblem& problem, bool fp8) {
    const bool pair = fp8 && problem.dim == 512 && config.heads == kPairHeads;
    const int heads = std::min(config.heads, kPairHeads / 2);
    Kernel kernel;
    if (problem.dim == 576)
        kernel.code = fp8 ? decode::kernel_576_fp8(heads) : decode::kernel_576_bf16(heads);
    else
        kernel.code = fp8 ? decode::kernel_512_fp8(heads, pair) : decode::kernel_512_bf16(heads);
    kernel.shared = decode::divide_shared(kernel.code, static_cast<int>(problem.dim), config.splits, kSharedBytes);
    kernel.pair = pair ? 2 : 1;
    kernel.splits = config.splits;
    kernel.head_groups = (problem.heads + heads * kernel.pair - 1) / (heads * kernel.pair);
    return kernel;
}

/// A form whose shared memory has one layout. `One`: FlatKernel, DirectKernel, PairedKernel.
template <typename One>
Kernel single_layout(const One& one, const SparseConfig& config, const SparseAttentionProblem& problem) {
    Kernel kernel;
    kernel.code.function = one.function;
    kernel.code.threads = one.threads;
    kernel.shared.bytes = one.shared_bytes;
    kernel.head_groups = (problem.heads + config.heads - 1) / config.heads;
    kernel.splits = config.splits;
    return kernel;
}

Kernel flat_kernel_of(const SparseConfig& config, const SparseAttentionProblem& problem) {
    const bool fp8 = all_fp8(problem);
    const auto find = problem.dim == 576 ? (fp8 ? &flat_decode::flat_576_fp8 : &flat_decode::flat_576_bf16)
                                         : (fp8 ? &flat_decode::flat_512_fp8 : &flat_decode::flat_512_bf16);
    Kernel kernel = single_layout(find(config.heads, config.rows), config, problem);
    kernel.flat = true;
    return kernel;
}

Kernel direct_kernel_of(const SparseConfig& config, const SparseAttentionProblem& problem) {
    if (config.heads == kWideHeads) {
        const wide_decode::WideKernel wide = problem.dim == 576 ? wide_decode::wide_576() : wide_decode::wide_512();
        Kernel kernel = single_layout(wide, config, problem);
        kernel.shared.weights = wide.weights;
        kernel.wide = true;
        return kernel;
    }
    const auto find = problem.dim == 576 ? &direct_decode::direct_576 : &direct_decode::direct_512;
    return single_layout(find(config.heads), config, problem);
}

Kernel grid_kernel_of(const SparseConfig& config, const SparseAttentionProblem& problem) {
    const wide_decode::FewKernel few = config.heads == kFewHeads ? grid_decode::grid_512()
                                       : problem.dim == 512
                                           ? whole_decode::whole_512()
                                           : wide_decode::few_576(columns_of_split(problem, config.splits));
    Kernel kernel = single_layout(few.kernel, config, problem);
    kernel.shared.weights = few.kernel.weights;
    kernel.published_bytes = few.published_bytes;
    kernel.wide = true;
    return kernel;
}

Kernel paired_kernel_of(const SparseConfig& config, const SparseAttentionProblem& problem) {
    const auto find = all_fp8(problem)     ? &paired_codes::codes_512
                      : problem.dim == 576 ? &paired_decode::paired_576
                                           : &paired_decode::paired_512;
    const bool shared = config.heads == kPairHeads;
    Kernel kernel = single_layout(shared ? paired_codes::shared_codes_512() : find(config.splits > 1), config, problem);
    kernel.pair = shared ? 2 : 1;
    kernel.paired = !all_fp8(problem);
    return kernel;
}

Kernel aligned_kernel_of(const SparseConfig& config, const SparseAttentionProblem& problem) {
    if (config.direct) return direct_kernel_of(config, problem);
    if (config.paired) return paired_kernel_of(config, problem);
    if (config.grid) return grid_kernel_of(config, problem);
    return config.rows > 0 ? flat_kernel_of(config, problem) : kernel_of(config, problem, all_fp8(problem));
}

/// Rows that the other forms do not take go to the pipelined one, and so do calls that ask the wide form for
/// max_logits: its scores are sums of e4m3 products, good to 2e-4 of their deviation, which is too little where they
/// are not averaged.
Launch prepare(const SparseConfig& config, const SparseAttentionProblem& problem) {
    const SparseConfig other = {*std::lower_bound(std::begin(kHeadCounts), std::end(kHeadCounts), config.heads),
                                sparse_splits(config.splits)};
    const Kernel aligned = aligned_kernel_of(config, problem);
    return {aligned, aligned.wide ? kernel_of(other, problem, all_fp8(problem)) : aligned,
            kernel_of(other, problem, false)};
}

bool fits(const SparseConfig& config, const SparseAttentionProblem& problem) {
    const bool pairs = problem.dim == 512 && all_fp8(problem) && 2 * config.splits <= decode::kMaxSplits;
    if (config.heads == kPairHeads && !pairs) return false;
    if (config.direct && !all_fp8(problem)) return false;
    const Launch launch = prepare(config, problem);
    return launch.aligned.shared.bytes > 0 && launch.exact.shared.bytes > 0 && launch.anywhere.shared.bytes > 0;
}

/// Lets a kernel take all the shared memory that any configuration uses; setting it twice is harmless.
void allow_shared_memory(const Kernel& kernel) {
    check(cudaFuncSetAttribute(kernel.code.function, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes),
          "cudaFuncSetAttribute");
    if (kernel.cluster() > decode::kMaxSplits)
        check(cudaFuncSetAttribute(kernel.code.function, cudaFuncAttributeNonPortableClusterSizeAllowed, 1),
              "cudaFuncSetAttribute");
}

/// What a launch of a kernel is, but for its stream.
struct LaunchConfig {
    cudaLaunchConfig_t config{};
    cudaLaunchAttribute attribute{};
    LaunchConfig(const Kernel& kernel, std::int64_t tokens) {
        const auto groups = static_cast<unsigned>(kernel.head_groups);
        const auto blocks = static_cast<unsigned>(tokens * kernel.cluster());
        config.gridDim = kernel.flat ? dim3(blocks, groups) : dim3(blocks * groups);
        if (kernel.published_bytes > 0) {
            config.gridDim = dim3(static_cast<unsigned>(kernel.splits), groups, static_cast<unsigned>(tokens));
        } else if (kernel.wide) {
            constexpr std::int64_t kMostRows = 65535;  // of a grid
            config.gridDim =
                dim3(groups * static_cast<unsigned>(kernel.splits), static_cast<unsigned>(std::min(tokens, kMostRows)),
                     static_cast<unsigned>((tokens + kMostRows - 1) / kMostRows));
        }
        if (kernel.paired) {
            const std::int64_t grids = (tokens + paired_decode::kMostTokens - 1) / paired_decode::kMostTokens;
            config.gridDim = dim3(static_cast<unsigned>(kernel.splits),
                                  grids > 1 ? static_cast<unsigned>(grids) * paired_decode::kMostGroups : groups,
                                  static_cast<unsigned>(std::min<std::int64_t>(tokens, paired_decode::kMostTokens)));
        }
        config.blockDim = dim3(static_cast<unsigned>(kernel.code.threads));
        config.dynamicSmemBytes = static_cast<std::size_t>(kernel.shared.bytes);
        config.attrs = &attribute;
        config.numAttrs = kernel.cluster() > 1 || kernel.published_bytes > 0 ? 1 : 0;
        if (kernel.published_bytes > 0) {
            attribute.id = cudaLaunchAttributeCooperative;
            attribute.val.cooperative = 1;
            return;
        }
        attribute.id = cudaLaunchAttributeClusterDimension;
        attribute.val.clusterDim.x = static_cast<unsigned>(kernel.cluster());
        attribute.val.clusterDim.y = attribute.val.clusterDim.z = 1;
    }
    LaunchConfig(const LaunchConfig&) = delete;
    LaunchConfig& operator=(const LaunchConfig&) = delete;
};

/// Whether the device can run a cluster larger than the portable ones.
bool cluster_runs(const Kernel& kernel) {
    if (kernel.cluster() <= decode::kMaxSplits) return true;
    const LaunchConfig launch(kernel, 1);
    int clusters = 0;
    check(cudaOccupancyMaxActiveClusters(&clusters, kernel.code.function, &launch.config), "occupancy of clusters");
    return clusters > 0;
}

}  // namespace

Support supports(const SparseAttentionProblem& p, Device device) {
    constexpr const char* op = kSparseAttention;
    if (Support support = device_support(op, device); !support) return support;
    if (p.dim != 512 && p.dim != 576) return Support::no(fmt::format("{}: `dim` is {}, on CUDA 512 or 576", op, p.dim));
    if (p.value_dim != 448 && p.value_dim != 512)
        return Support::no(fmt::format("{}: `value_dim` is {}, on CUDA 448 or 512", op, p.value_dim));
    if (p.q_dtype != DType::bf16)
        return Support::no(fmt::format("{}: `q_dtype` is {}, on CUDA bf16", op, to_string(p.q_dtype)));
    if (p.out_dtype == DType::f64)
        return Support::no(fmt::format("{}: `out_dtype` is f64, on CUDA bf16, f16 or f32", op));
    for (const KvPool& pool : p.pools) {
        if (pool.format == KvFormat::mxfp4 || pool.format == KvFormat::f32)
            return Support::no(fmt::format("{}: the KV format {} has no CUDA kernel", op, to_string(pool.format)));
        if (pool.top_k > 1 << 28)
            return Support::no(fmt::format("{}: `top_k` is {}, on CUDA at most {}", op, pool.top_k, 1 << 28));
    }
    if (p.max_tokens > 1 << 22)
        return Support::no(fmt::format("{}: `max_tokens` is {}, on CUDA at most {}", op, p.max_tokens, 1 << 22));
    return Support::yes();
}

SparseAttentionPlan make_plan(const SparseAttentionProblem& problem, Device device, const PlanOptions& options) {
    if (const Support support = cuda::supports(problem, device); !support)
        throw Error(ErrorCode::unsupported, support.reason);
    const tokamak::cuda::DeviceGuard guard(device.index);
    auto state = std::make_shared<DecodeState>();
    state->problem = problem;
    std::vector<SparseConfig> configs;
    std::vector<std::string> names;
    const int all = device_info(device).multiprocessors;
    const int multiprocessors = options.max_sms > 0 ? std::min(options.max_sms, all) : all;
    for (const SparseConfig& config : legal_configs(problem.heads, &fits, problem)) {
        Launch launch = prepare(config, problem);
        if (config.grid) {
            launch.grid_tokens = std::min(problem.max_tokens, grid_tokens(config, problem.heads, multiprocessors));
            if (launch.grid_tokens == 0 && problem.max_tokens > 0) continue;
            if (options.max_workspace_bytes > 0 && launch.published_bytes() > options.max_workspace_bytes) continue;
        }
        allow_shared_memory(launch.aligned);
        allow_shared_memory(launch.exact);
        allow_shared_memory(launch.anywhere);
        if (!cluster_runs(launch.aligned)) continue;
        configs.push_back(config);
        names.push_back(to_string(config));
        state->launches.push_back(launch);
    }
    state->refused = refused_configs(configs, problem, problem.dim == 512 && all_fp8(problem));
    choose_into(
        *state, kSparseAttention, device, problem.max_tokens, options, problem_key(problem), std::move(names),
        [&](std::int64_t tokens) { return to_string(choose_config(configs, problem, tokens, multiprocessors)); },
        environment::kSparseMlaConfig, config_fields());
    std::size_t published = 0;
    for (const std::size_t variant : state->row_variants)
        published = std::max(published, state->launches[variant].published_bytes());
    if (published > 0) state->published = state->layout.add<std::byte>("published", published);
    return detail::to_plan<SparseAttentionProblem>(std::shared_ptr<const DecodeState>(std::move(state)));
}

void run(const SparseAttentionPlan& plan, const SparseAttentionArgs& args, const Workspace& workspace, Stream stream) {
    if (args.tokens == 0) return;
    const auto& state = detail::state_of<DecodeState>(plan);
    const tokamak::cuda::DeviceGuard guard(plan.device().index);
    const Launch& launch = state.launches[state.row_variants[state.row_index(args.tokens)]];
    decode::Params params = decode_params(state.problem, args);
    const Kernel& kernel = params.anywhere                ? launch.anywhere
                           : params.max_logits != nullptr ? launch.exact
                                                          : launch.aligned;
    set_splits(params, kernel.splits);
    if (kernel.paired) set_paired_parts(params);
    params.head_groups = kernel.head_groups;
    params.shared = kernel.shared;
    const std::int64_t together = kernel.published_bytes > 0 ? launch.grid_tokens : args.tokens;
    for (std::int64_t first = 0; first < args.tokens; first += together) {
        wide_decode::Published published = {nullptr};
        if (kernel.published_bytes > 0) {
            published.at = reinterpret_cast<std::uint8_t*>(state.published.in(workspace));
            params.first.of_splits = static_cast<std::uint32_t>(first);  // such a grid needs no division
        }
        LaunchConfig now(kernel, std::min(together, args.tokens - first));
        now.config.stream = stream.handle;
        void* arguments[] = {&params, &published};  // others than of a grid have one
        check(cudaLaunchKernelExC(&now.config, kernel.code.function, arguments), "sparse_attention launch");
    }
}

}  // namespace tokamak::mla::cuda
