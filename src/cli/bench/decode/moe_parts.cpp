// SPDX-License-Identifier: Apache-2.0
// The small operators of an MoE layer, and one of its GEMMs alone.
#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "cli/bench/decode/kernels.h"
#include "cli/bench/decode/moe_bench.h"
#include "cli/bench/random_tensor.h"

namespace tokamak::cli::bench {
namespace {

constexpr std::int64_t kLarge = 1024;  ///< tokens that align and sum_reduce have goals for
constexpr double kAlignMust = 4.0;     ///< microseconds up to 1024 tokens
constexpr double kCopyShare = 0.9;     ///< of the copy bandwidth that sum_reduce owes
constexpr int kSmallSets = 32;

/// Few counts show these; all that are asked for are measured.
std::vector<std::int64_t> small_counts(const DecodeOptions& options) {
    std::vector<std::int64_t> tokens = options.tokens;
    if (tokens.empty()) tokens = {1, 8, 64};
    if (std::find(tokens.begin(), tokens.end(), kLarge) == tokens.end()) tokens.push_back(kLarge);
    return tokens;
}

/// Blocks as serving stacks choose them: small while few tokens share an expert.
int block_size(std::int64_t tokens) { return tokens <= 32 ? 16 : 64; }

/// Integers have to be the same: any difference is an error of 1.
Distance difference(const Tensor& got, const Tensor& want, std::int64_t count) {
    const OwnedTensor host = OwnedTensor::copy_of(got);
    const bool same = std::memcmp(host.view().data, want.data, static_cast<std::size_t>(count) * 4) == 0;
    return same ? Distance{} : Distance{1, 1};
}

/// One token count of align: inputs, outputs, and what the CPU says.
class Align {
  public:
    Align(DecodeBench& bench, const MoeShape& shape, std::int64_t tokens) : bench_(bench), shape_(shape) {
        problem_ = {
            .max_tokens = tokens, .top_k = shape.top_k, .num_experts = shape.experts, .block_size = block_size(tokens)};
        for (int set = 0; set < kSmallSets; ++set) {
            const auto routes = random_routes(Routing::uniform, tokens, shape.experts, shape.top_k,
                                              static_cast<std::uint64_t>(set) + 1);
            ids_.insert(ids_.end(), routes.begin(), routes.end());
        }
        device_ids_ =
            OwnedTensor::copy_of(Tensor(ids_.data(), DType::i32, {kSmallSets, tokens, shape.top_k}), bench.device());
        const moe::AlignSizes sizes = moe::align_sizes(problem_, tokens);
        sorted_ = OwnedTensor::allocate(DType::i32, {sizes.max_padded}, bench.device());
        experts_ = OwnedTensor::allocate(DType::i32, {sizes.max_blocks}, bench.device());
        count_ = OwnedTensor::allocate(DType::i32, {1}, bench.device());
        expected_ =
            moe::align(problem_, {.tokens = tokens, .ids = Tensor(ids_.data(), DType::i32, {tokens, shape.top_k})});
    }

    void run() {
        const auto plan = make_plan(problem_, bench_.device());
        const OwnedWorkspace workspace(plan.workspace(), bench_.device());
        Subject subject;
        subject.row = moe_row(plan, shape_.name, "-", problem_.max_tokens);
        subject.row.routing = to_string(Routing::uniform);
        if (problem_.max_tokens <= kLarge) subject.row.decode->must_us = kAlignMust;
        const moe::AlignSizes sizes = moe::align_sizes(problem_, problem_.max_tokens);
        const double bytes =
            4.0 * static_cast<double>(problem_.max_tokens * problem_.top_k + sizes.max_padded + sizes.max_blocks);
        subject.bytes = [bytes](int) { return bytes; };
        subject.most_calls = kSmallSets;
        subject.owning = [this, &plan](int set, Stream stream) {
            moe::AlignResult result = moe::align(plan, args(set, false), {}, stream);
            return std::move(result.sorted_token_ids);
        };
        subject.preallocated = [this, &plan, &workspace](int set, Stream stream) {
            moe::run(plan, args(set, true), workspace, stream);
        };
        subject.bare = [&plan, &workspace, first = args(0, true)](Stream stream) {
            moe::run(plan, first, workspace, stream);
        };
        subject.out = sorted_;
        subject.workspace = workspace;
        subject.check = [this](const Tensor& out) { return difference(out, expected_.sorted_token_ids, used()); };
        subject.checked_tokens = problem_.max_tokens;
        const auto must = subject.row.decode->must_us;
        for (const Mode mode : bench_.options().mode_list()) {
            subject.mode = mode;
            subject.row.decode->must_us = mode == Mode::graph ? must : std::nullopt;
            bench_.measure(subject);
        }
        if (problem_.max_tokens == 8) bench_.measure_host(subject);
    }

  private:
    [[nodiscard]] std::int64_t used() const { return *expected_.num_tokens_post_padded.as<std::int32_t>(); }
    [[nodiscard]] moe::AlignArgs args(int set, bool outputs) const {
        moe::AlignArgs args;
        args.tokens = problem_.max_tokens;
        args.ids = device_ids_.view().at(set);
        if (!outputs) return args;
        args.sorted_token_ids = sorted_;
        args.expert_ids = experts_;
        args.num_tokens_post_padded = count_;
        return args;
    }

    DecodeBench& bench_;
    const MoeShape& shape_;
    moe::AlignProblem problem_;
    std::vector<std::int32_t> ids_;
    OwnedTensor device_ids_, sorted_, experts_, count_;
    moe::AlignResult expected_;
};

/// The first token's sum against that of the CPU: the same roundings.
Distance check_sum(const Tensor& y, const Tensor& out) {
    const OwnedTensor host = OwnedTensor::copy_of(y.first_rows(1));
    const OwnedTensor got = OwnedTensor::copy_of(out.first_rows(1));
    const moe::SumReduceProblem problem{.max_tokens = 1, .top_k = static_cast<int>(y.size(1)), .hidden = y.size(2)};
    return distance(got, widened(moe::sum_reduce(problem, {.tokens = 1, .y = host})));
}

}  // namespace

void bench_align(DecodeBench& bench, const MoeShape& shape) {
    const Support support = supports(
        moe::AlignProblem{.max_tokens = kLarge, .top_k = shape.top_k, .num_experts = shape.experts, .block_size = 16},
        bench.device());
    if (!support) return bench.refuse("align", shape.name, "-", support.reason);
    for (const std::int64_t tokens : small_counts(bench.options())) Align(bench, shape, tokens).run();
}

void bench_sum_reduce(DecodeBench& bench, const WeightPool& pool, const MoeShape& shape) {
    const auto counts = small_counts(bench.options());
    const std::int64_t most = *std::max_element(counts.begin(), counts.end());
    const moe::SumReduceProblem problem{.max_tokens = most, .top_k = shape.top_k, .hidden = shape.hidden};
    if (const Support support = supports(problem, bench.device()); !support)
        return bench.refuse("sum_reduce", shape.name, "bf16", support.reason);
    const auto plan = make_plan(problem, bench.device());
    const OwnedWorkspace workspace(plan.workspace(), bench.device());
    const OwnedTensor out = OwnedTensor::allocate(DType::bf16, {most, shape.hidden}, bench.device());
    const std::int64_t row_bytes = shape.top_k * shape.hidden * 2;
    const auto sets =
        static_cast<int>(std::min<std::int64_t>(64, static_cast<std::int64_t>(pool.bytes()) / (most * row_bytes)));
    fill_normal(pool.data(), static_cast<std::size_t>(sets * most * row_bytes / 2), 77, bench.stream().stream());
    for (const std::int64_t tokens : counts) {
        const auto y = [&pool, &bench, &shape, tokens, stride = most * row_bytes](int set) {
            return Tensor(pool.data() + set * stride, DType::bf16, {tokens, shape.top_k, shape.hidden}, bench.device());
        };
        Subject subject;
        subject.row = moe_row(plan, shape.name, "bf16", tokens);
        subject.row.routing = "none";
        const double bytes = static_cast<double>(tokens * (row_bytes + shape.hidden * 2));
        if (tokens == kLarge) subject.row.decode->must_us = bytes / (kCopyShare * bench.copy_gbps()) * 1e-3;
        subject.bytes = [bytes](int) { return bytes; };
        subject.most_calls = sets;
        subject.owning = [&plan, y](int set, Stream stream) {
            const Tensor rows = y(set);
            return moe::sum_reduce(plan, {.tokens = rows.size(0), .y = rows}, {}, stream);
        };
        subject.preallocated = [&plan, &workspace, &out, y](int set, Stream stream) {
            const Tensor rows = y(set);
            moe::run(plan, {.tokens = rows.size(0), .y = rows, .out = out}, workspace, stream);
        };
        subject.bare = [&plan, &workspace, &out, rows = y(0)](Stream stream) {
            moe::run(plan, {.tokens = rows.size(0), .y = rows, .out = out}, workspace, stream);
        };
        subject.out = out;
        subject.workspace = workspace;
        subject.check = [y](const Tensor& result) { return check_sum(y(0), result); };
        subject.limit = {3e-3, 5e-3};
        subject.checked_tokens = 1;
        const auto must = subject.row.decode->must_us;
        for (const Mode mode : bench.options().mode_list()) {
            subject.mode = mode;
            subject.row.decode->must_us = mode == Mode::graph ? must : std::nullopt;
            bench.measure(subject);
        }
        if (tokens == 8) bench.measure_host(subject);
    }
}

}  // namespace tokamak::cli::bench
