// SPDX-License-Identifier: Apache-2.0
// merge_state, paged_gather and write_kv on CUDA: one variant each, no workspace, one launch.
#include "core/choose.h"
#include "core/throw.h"
#include "cuda/check.h"
#include "formats/kv_layout.h"
#include "mla/cuda/alignment.h"
#include "mla/cuda/backend.h"
#include "mla/cuda/device_support.h"
#include "mla/cuda/row_kernels.h"

namespace tokamak::mla::cuda {
namespace {

constexpr const char* kVariant = "cuda";
constexpr std::int64_t kMostBlocks = (1LL << 31) - 1;  ///< of a launch

Support size_support(const char* op, std::int64_t tokens, std::int64_t rows, std::int64_t dim) {
    if (tokens <= kMostBlocks / std::max<std::int64_t>(1, rows) && dim < 1 << 24) return Support::yes();
    return Support::no(
        fmt::format("{}: {} tokens of {} rows of {} elements are more than one launch takes", op, tokens, rows, dim));
}

template <class Problem>
PlanOf<Problem> plan_of(const char* op, const Problem& problem, Device device, const PlanOptions& options) {
    if (const Support support = cuda::supports(problem, device); !support)
        throw Error(ErrorCode::unsupported, support.reason);
    auto state = std::make_shared<detail::TypedState<Problem>>();
    state->problem = problem;
    choose_into(*state, op, device, problem.max_tokens, options, {}, {kVariant},
                [](std::int64_t) { return std::string(kVariant); });
    return detail::to_plan<Problem>(std::shared_ptr<const detail::TypedState<Problem>>(std::move(state)));
}

std::int64_t bytes(DType type) { return static_cast<std::int64_t>(size_of(type)); }

/// Rows of a tensor of rank 2 or 3 start at multiples of 16 bytes.
void add_rows(Alignment& alignment, const Tensor& tensor) {
    alignment.add(tensor.data);
    for (int d = 0; d + 1 < tensor.rank; ++d) alignment.add(tensor.stride(d) * bytes(tensor.dtype));
}

bool rows_aligned(const Tensor& tensor) {
    Alignment alignment;
    add_rows(alignment, tensor);
    return alignment.bytes() == 16;
}

const std::int32_t* count_of(const Tensor& num_tokens) {
    return num_tokens.present ? num_tokens.as<std::int32_t>() : nullptr;
}

}  // namespace

CacheParams cache_params(const KvCache& cache) {
    CacheParams p;
    p.format = cache.format;
    p.values = cache.values.as<std::uint8_t>();
    p.page_stride = cache.values.stride(0) * bytes(cache.values.dtype);
    p.pages = cache.pages();
    p.page_size = cache.page_size;
    p.dim = cache.dim;
    const KvCacheShape shape = kv_cache_shape(cache.format, cache.dim);
    p.row_bytes = static_cast<std::int32_t>(shape.values_row_bytes);
    p.scale_row_bytes = static_cast<std::int32_t>(shape.scales_row_bytes);
    if (cache.scales.present) {
        p.scales = cache.scales.as<std::uint8_t>();
        p.scale_page_stride = cache.scales.stride(0);
    }
    if (cache.format == KvFormat::fp8_656) {
        p.scales = p.values + offsetof(kv::Row656, scales);
        p.scale_page_stride = p.page_stride;
        p.scale_row_bytes = p.row_bytes;
    }
    if (cache.format == KvFormat::fp8_584) {
        p.row_bytes = sizeof(kv::Row576);
        p.scales = p.values + cache.page_size * std::int64_t{sizeof(kv::Row576)};
        p.scale_page_stride = p.page_stride;
        p.scale_row_bytes = sizeof(kv::Scales8);
    }
    p.vector_values = Alignment().add(p.values).add(p.page_stride).add(std::int64_t{p.row_bytes}).bytes() == 16;
    return p;
}

Support supports(const MergeStateProblem& p, Device device) {
    if (const Support support = device_support("merge_state", device); !support) return support;
    return size_support("merge_state", p.max_tokens, p.heads, p.dim);
}
MergeStatePlan make_plan(const MergeStateProblem& p, Device device, const PlanOptions& options) {
    return plan_of("merge_state", p, device, options);
}
void run(const MergeStatePlan& plan, const MergeStateArgs& args, const Workspace&, Stream stream) {
    if (args.tokens == 0) return;
    const tokamak::cuda::DeviceGuard guard(plan.device().index);
    MergeParams p{};
    p.out_a = args.out_a.data;
    p.out_b = args.out_b.data;
    p.out = args.out.data;
    p.lse_a = args.lse_a.as<float>();
    p.lse_b = args.lse_b.as<float>();
    p.lse = args.lse.as<float>();
    p.num_tokens = count_of(args.num_tokens);
    for (int d = 0; d < 2; ++d) {
        p.a_strides[d] = args.out_a.stride(d);
        p.b_strides[d] = args.out_b.stride(d);
        p.out_strides[d] = args.out.stride(d);
        p.lse_a_strides[d] = args.lse_a.stride(d);
        p.lse_b_strides[d] = args.lse_b.stride(d);
        p.lse_strides[d] = args.lse.stride(d);
    }
    p.tokens = args.tokens;
    p.heads = plan.problem().heads;
    p.dim = static_cast<std::int32_t>(plan.problem().dim);
    p.dtype = plan.problem().dtype;
    p.vectors = rows_aligned(args.out_a) && rows_aligned(args.out_b) && rows_aligned(args.out);
    tokamak::cuda::check(launch_merge(p, stream.handle), "merge_state launch");
}

Support supports(const PagedGatherProblem& p, Device device) {
    if (const Support support = device_support("paged_gather", device); !support) return support;
    return size_support("paged_gather", p.max_tokens, p.top_k, p.dim);
}
PagedGatherPlan make_plan(const PagedGatherProblem& p, Device device, const PlanOptions& options) {
    return plan_of("paged_gather", p, device, options);
}
void run(const PagedGatherPlan& plan, const PagedGatherArgs& args, const Workspace&, Stream stream) {
    if (args.tokens == 0 || plan.problem().top_k == 0) return;
    const tokamak::cuda::DeviceGuard guard(plan.device().index);
    GatherParams p{};
    p.cache = cache_params(args.cache);
    p.positions = args.positions.as<std::int32_t>();
    p.position_stride = args.positions.stride(0);
    if (args.block_table.present) {
        p.block_table = args.block_table.as<std::int32_t>();
        p.table_stride = args.block_table.stride(0);
        p.table_columns = args.block_table.size(1);
    }
    p.num_tokens = count_of(args.num_tokens);
    p.out = args.out.data;
    p.out_token_stride = args.out.stride(0);
    p.out_row_stride = args.out.stride(1);
    p.tokens = args.tokens;
    p.top_k = plan.problem().top_k;
    p.out_dtype = plan.problem().out_dtype;
    p.vector_out = rows_aligned(args.out);
    tokamak::cuda::check(launch_gather(p, stream.handle), "paged_gather launch");
}

Support supports(const WriteKvProblem& p, Device device) {
    if (const Support support = device_support("write_kv", device); !support) return support;
    return size_support("write_kv", p.max_tokens, 1, p.dim);
}
WriteKvPlan make_plan(const WriteKvProblem& p, Device device, const PlanOptions& options) {
    return plan_of("write_kv", p, device, options);
}
void run(const WriteKvPlan& plan, const WriteKvArgs& args, const Workspace&, Stream stream) {
    if (args.tokens == 0) return;
    const tokamak::cuda::DeviceGuard guard(plan.device().index);
    WriteParams p{};
    p.cache = cache_params(args.cache);
    p.kv = args.kv.data;
    p.kv_stride = args.kv.stride(0);
    p.slots = args.slots.data;
    p.slot_stride = args.slots.stride(0);
    p.num_tokens = count_of(args.num_tokens);
    p.tokens = args.tokens;
    p.kv_dtype = plan.problem().dtype;
    p.wide_slots = args.slots.dtype == DType::i64;
    p.exact_scale = plan.problem().scale == KvScale::exact;
    p.vector_kv = rows_aligned(args.kv);
    tokamak::cuda::check(launch_write(p, stream.handle), "write_kv launch");
}

}  // namespace tokamak::mla::cuda
