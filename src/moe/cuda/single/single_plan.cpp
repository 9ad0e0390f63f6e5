// SPDX-License-Identifier: Apache-2.0
#include "moe/cuda/single/single_plan.h"

#include <algorithm>
#include <initializer_list>

#include "moe/cuda/shared_booking.h"

namespace tokamak::moe::cuda {
namespace {

constexpr int kSegmentBytes = 64 * 4;
constexpr std::int64_t kMostPieces = 1 << 20;  ///< of a phase: what the kernel's divisions take

std::int64_t ceil_div(std::int64_t value, std::int64_t by) { return (value + by - 1) / by; }

/// How the tiles of a GEMM are cut when every slot of the token is live.
struct Runs {
    std::int64_t pieces;
    std::int64_t cta;   ///< tiles of a CTA
    std::int64_t warp;  ///< tiles of a warp

    Runs(const PackedLayout& layout, int top_k, int grid, int warps)
        : pieces(top_k * static_cast<std::int64_t>(layout.strips) * static_cast<std::int64_t>(layout.tiles)),
          cta(ceil_div(pieces, grid)),
          warp(ceil_div(cta, warps)) {}
};

/// Most parts that a run of `run` things touches when parts have `part` things.
std::int64_t touched(std::int64_t run, std::int64_t part) { return (run + part - 2) / part + 1; }

std::int64_t padded(const PackedLayout& layout) {
    return static_cast<std::int64_t>(layout.tiles) * static_cast<std::int64_t>(layout.tile_cols);
}

/// Fills the layout for `variant.slots`; returns its true size, which may pass every limit.
std::int64_t lay_out(const DecodeInstance& instance, const FusedMoeProblem& p, int grid, SingleVariant& variant) {
    const PackedLayout gate_up = gate_up_layout(p);
    const PackedLayout down = down_layout(p);
    const Runs gate_up_runs(gate_up, p.top_k, grid, instance.warps);
    const Runs down_runs(down, p.top_k, grid, instance.warps);
    const auto tiles = [](const PackedLayout& layout) { return static_cast<std::int64_t>(layout.tiles); };
    const std::int64_t warp_segments =
        std::max(touched(gate_up_runs.warp, tiles(gate_up)), touched(down_runs.warp, tiles(down)));
    const std::int64_t expert_tiles = tiles(down) * static_cast<std::int64_t>(down.strips);
    const std::int64_t rows = std::min<std::int64_t>(p.top_k, touched(down_runs.cta, expert_tiles));
    const auto row_bytes = [&](const PackedLayout& layout) {
        return ceil_div(padded(layout), 128) * 128 * instance.value_bytes + 16;
    };
    const auto group_floats = [&](const PackedLayout& layout) {
        return instance.token_groups ? ceil_div(padded(layout), 128) * 128 / instance.group * 8 : 0;
    };
    const std::int64_t slots = std::int64_t{instance.warps} * variant.slots;
    variant.gate_up_segments = static_cast<int>(touched(gate_up_runs.cta, tiles(gate_up)));
    variant.down_segments = static_cast<int>(touched(down_runs.cta, tiles(down)));
    SingleShared& shared = variant.shared;
    Booking booking;
    booking.take(slots * instance.piece_bytes * instance.pieces);
    shared.scales = booking.take(instance.strip_scales ? slots * 8 : 0);
    shared.barriers = booking.take(slots * 8);
    shared.experts = booking.take(std::int64_t{instance.warps + kServiceWarps} * kMostSingleRoutes * 4);
    shared.weights = booking.take(std::int64_t{instance.warps + kServiceWarps} * kMostSingleRoutes * 4);
    shared.scores = booking.take(p.route ? std::int64_t{score_room(p.num_experts)} * 4 : 0);
    shared.routed = booking.take(p.route ? std::int64_t{2} * kMostSingleRoutes * 4 : 0);
    shared.sums = booking.take(instance.warps * warp_segments * kSegmentBytes);
    shared.x = booking.take(row_bytes(gate_up));
    shared.x_groups = booking.take(group_floats(gate_up) * 4);
    shared.rows = booking.take(rows * row_bytes(down));
    shared.row_groups = booking.take(rows * group_floats(down) * 4);
    shared.row_pitch = static_cast<int>(row_bytes(down));
    shared.group_pitch = static_cast<int>(group_floats(down));
    shared.warp_segments = static_cast<int>(warp_segments);
    shared.bytes = static_cast<int>(std::min<std::int64_t>(booking.bytes, 0x7FFFFFF0));
    return booking.bytes;
}

}  // namespace

std::optional<DecodeInstance> single_instance(const WeightSpec& spec, bool quantized) {
    if (quantized && spec.format != WeightFormat::fp8_block) return std::nullopt;
    switch (spec.format) {
        case WeightFormat::bf16: return single_bf16();
        case WeightFormat::fp8_block: return quantized ? single_fp8_block() : single_fp8_block_a16();
        case WeightFormat::mxfp4: return single_mxfp4();
        case WeightFormat::nvfp4: return single_nvfp4();
        case WeightFormat::int4: break;
    }
    const bool f16 = spec.scale_dtype == DType::f16;
    switch (spec.group_size) {
        case 32: return f16 ? single_int4_g32_f16() : single_int4_g32();
        case 64: return f16 ? single_int4_g64_f16() : single_int4_g64();
        case 128: return f16 ? single_int4_g128_f16() : single_int4_g128();
        default: return std::nullopt;
    }
}

std::vector<SingleVariant> single_variants(const DecodeInstance& instance, const FusedMoeProblem& problem, int grid,
                                           std::size_t shared_limit) {
    if (problem.routing_weight == RoutingWeight::input || problem.top_k > kMostSingleRoutes) return {};
    for (const PackedLayout& layout : {gate_up_layout(problem), down_layout(problem)})
        if (Runs(layout, problem.top_k, grid, instance.warps).pieces > kMostPieces) return {};
    std::vector<SingleVariant> variants;
    for (const int slots : {2, 3}) {  // 4 and 6 were never faster
        SingleVariant variant{.name = "single_s" + std::to_string(slots), .slots = slots};
        if (lay_out(instance, problem, grid, variant) <= static_cast<std::int64_t>(shared_limit))
            variants.push_back(variant);
    }
    return variants;
}

std::size_t choose_single(const DecodeInstance& instance, const std::vector<SingleVariant>& variants,
                          const FusedMoeProblem& problem, int grid) {
    constexpr int long_run = 16;                         // tiles of a warp
    constexpr std::int64_t enough_in_flight = 80 << 10;  // bytes of an SM, to stream at full rate
    if (Runs(gate_up_layout(problem), problem.top_k, grid, instance.warps).warp <= long_run) return 0;
    const std::int64_t slot_bytes = std::int64_t{instance.warps} * instance.piece_bytes * instance.pieces;
    for (std::size_t i = 0; i < variants.size(); ++i)
        if (variants[i].slots * slot_bytes >= enough_in_flight) return i;
    return variants.size() - 1;
}

std::size_t published_floats(int segments, int grid) noexcept {
    return static_cast<std::size_t>(segments) * static_cast<std::size_t>(grid) * (kSegmentBytes / 4);
}

std::size_t activated_floats(const FusedMoeProblem& problem) {
    return static_cast<std::size_t>(problem.top_k) * gate_up_layout(problem).strips * 32;
}

}  // namespace tokamak::moe::cuda
