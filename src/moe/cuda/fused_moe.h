// SPDX-License-Identifier: Apache-2.0
// The seam between fused_moe and its CUDA kernels. Problems and arguments are checked already.
#pragma once

#include <cstddef>
#include <vector>

#include "moe/cuda/decode_args.h"
#include "moe/cuda/grouped/grouped_args.h"
#include "moe/cuda/single/single_args.h"
#include "moe/cuda/wide/wide_args.h"
#include "tokamak/moe/fused_moe.h"
#include "tokamak/workspace.h"

namespace tokamak::moe {

struct FusedMoeState;

namespace cuda {

/// The kernels that route tokens before others (route_rows.h).
struct RouteKernels {
    const void* in_registers = nullptr;
    const void* in_memory = nullptr;
};

/// A variant of the decode kernel, frozen for one problem.
struct DecodeLaunch {
    const void* kernel = nullptr;
    const void* logits_kernel = nullptr;  ///< which routes the tokens of a pass itself
    int threads = 0;
    DecodeTeams gate_up_teams;
    DecodeTeams down_teams;
    int slots = 0;
    int group_rows = 0;  ///< gathered rows, else 0
    Divisor by_group_rows;
    DecodeShared shared;
};

/// A variant of the grouped kernel, frozen for one problem.
struct GroupedLaunch {
    const void* kernel = nullptr;
    const void* waiting_kernel = nullptr;  ///< GroupedInstance says for what; only for problems with a `route`
    int threads = 0;
    int stages = 0;
    GroupedShared shared;
    bool grid_lists = false;  ///< one launch for each pass
    int gate_up_units = 0;    ///< of a row tile, where CTAs ask for units
    int down_units = 0;
};

/// A variant of the kernel for one token, frozen for one problem.
struct SingleLaunch {
    const void* kernel = nullptr;
    int threads = 0;
    int slots = 0;
    int gate_up_segments = 0;
    int down_segments = 0;
    Divisor gate_up_tiles;
    Divisor down_tiles;
    SingleShared shared;
};

/// A variant of the wide kernel, frozen for one problem.
struct WideLaunch {
    const void* kernel = nullptr;
    const void* half_kernel = nullptr;    ///< with results in bf16, for the calls that allow it
    const void* atomic_kernel = nullptr;  ///< which adds results to `out`, for the calls that allow it
    int threads = 0;
    int stages = 0;
    WideShared shared;
    bool pairs = false;      ///< clusters of two CTAs
    bool converted = false;  ///< weights, by CTAs of their own
};

/// The kernel behind a variant: one of them is set.
struct KernelOfVariant {
    const DecodeLaunch* decode = nullptr;
    const GroupedLaunch* grouped = nullptr;
    const WideLaunch* wide = nullptr;
    const SingleLaunch* single = nullptr;
    bool takes_ids = false;  ///< logits are routed by a launch before
};

/// What a fused_moe plan for a CUDA device holds.
struct FusedMoeCuda {
    int grid = 0;
    DecodeArgs args;                     ///< what the problem alone decides
    RouteKernels route_rows;             ///< that route before others, for problems with a `route`
    std::vector<DecodeLaunch> launches;  ///< of the first legal variants
    std::vector<GroupedLaunch> grouped;  ///< of the next
    std::vector<WideLaunch> wide;        ///< of the next
    std::vector<SingleLaunch> single;    ///< of the last
    std::int64_t gather_tokens = 0;      ///< of a pass with gathered rows
    std::int64_t pass_tokens = 0;        ///< of the grouped kernel
    std::int64_t grid_pass_tokens = 0;   ///< of its variants with one list of routes
    bool atomic = false;                 ///< the wide kernel adds to `out`
    std::int64_t wide_tokens = 0;        ///< of a launch of the wide kernel
    std::int64_t slot_experts = 1;       ///< whose converted weights it holds at once
    Slice<std::byte> intermediate;       ///< bf16 or (quantised) f32 [routes of a pass, intermediate_stride]
    Slice<std::uint16_t> prepared_rows;  ///< fp8_block: GroupedArgs says what they hold
    Slice<float> row_scales;
    Slice<float> intermediate_scales;
    Slice<std::int32_t> tile_units;
    Slice<std::int32_t> grid_list;
    Slice<std::uint32_t> grid_places;
    Slice<std::int32_t> cta_counts;
    Slice<std::int32_t> wide_list;  ///< WideArgs says what they hold
    Slice<std::int32_t> wide_counts;
    Slice<std::int32_t> wide_places;
    Slice<std::int32_t> wide_owners;
    Slice<float> wide_factors;
    Slice<std::int32_t> wide_ready;
    Slice<std::int32_t> wide_dealt;
    Slice<std::byte> wide_slots[2];  ///< converted weights of gate/up and down (WideConversion)
    Slice<std::int32_t> wide_slot_counts;
    Slice<float> partials;   ///< [routes of a pass, hidden]
    Slice<float> published;  ///< SingleArgs says what they hold
    Slice<float> activated;
    Slice<std::int32_t> routed_ids;  ///< [max_tokens, top_k], where a launch of its own routes
    Slice<float> routed_weights;

    [[nodiscard]] KernelOfVariant kernel_of(std::size_t variant, std::int64_t tokens) const {
        if (variant < launches.size())
            return {.decode = &launches[variant],
                    .takes_ids = launches[variant].logits_kernel == nullptr || tokens > kPassTokens};
        variant -= launches.size();
        if (variant < grouped.size()) return {.grouped = &grouped[variant], .takes_ids = true};
        variant -= grouped.size();
        if (variant < wide.size()) return {.wide = &wide[variant], .takes_ids = true};
        return {.single = &single[variant - wide.size()]};
    }
};

/// Throws `unsupported` with the reason unless the kernels run the problem.
void require(const FusedMoeProblem& problem, Device device);
/// Fills table, workspace layout and `cuda` of a state whose problem and weight layouts are set.
void plan_fused_moe(FusedMoeState& state, const PlanOptions& options);
void run_fused_moe(const FusedMoeState& state, const FusedMoeArgs& args, const Workspace& workspace, Stream stream);

}  // namespace cuda
}  // namespace tokamak::moe
