// SPDX-License-Identifier: Apache-2.0
// The seam between fused_moe and its CUDA kernels. Problems and arguments are checked already.
#pragma once

#include <cstddef>
#include <vector>

#include "moe/cuda/decode_args.h"
#include "moe/cuda/grouped/grouped_args.h"
#include "moe/cuda/wide/wide_args.h"
#include "tokamak/moe/fused_moe.h"
#include "tokamak/workspace.h"

namespace tokamak::moe {

struct FusedMoeState;

namespace cuda {

/// A variant of the decode kernel, frozen for one problem.
struct DecodeLaunch {
    const void* kernel = nullptr;
    int threads = 0;
    int gate_up_teams = 0;
    int down_teams = 0;
    int slots = 0;
    DecodeShared shared;
};

/// A variant of the grouped kernel, frozen for one problem.
struct GroupedLaunch {
    const void* kernel = nullptr;
    int threads = 0;
    int stages = 0;
    GroupedShared shared;
};

/// A variant of the wide kernel, frozen for one problem.
struct WideLaunch {
    const void* kernel = nullptr;
    int threads = 0;
    int stages = 0;
    WideShared shared;
};

/// What a fused_moe plan for a CUDA device holds.
struct FusedMoeCuda {
    int grid = 0;
    std::vector<DecodeLaunch> launches;  ///< of the first legal variants
    std::vector<GroupedLaunch> grouped;  ///< of the next ones
    std::vector<WideLaunch> wide;        ///< of the last ones
    std::int64_t pass_tokens = 0;        ///< of the grouped kernel
    std::int64_t wide_tokens = 0;        ///< of a launch of the wide kernel
    Slice<std::int32_t> wide_list;       ///< WideArgs says what they hold
    Slice<std::int32_t> wide_counts;
    Slice<std::byte> intermediate;       ///< bf16 or (quantised) f32 [routes of a pass, intermediate_stride]
    Slice<std::uint16_t> prepared_rows;  ///< fp8_block: GroupedArgs says what they hold
    Slice<float> row_scales;
    Slice<float> partials;  ///< [routes of a pass, hidden]
};

/// Throws `unsupported` with the reason unless the kernels run the problem.
void require(const FusedMoeProblem& problem, Device device);
/// Fills table, workspace layout and `cuda` of a state whose problem and weight layouts are set.
void plan_fused_moe(FusedMoeState& state, const PlanOptions& options);
void run_fused_moe(const FusedMoeState& state, const FusedMoeArgs& args, const Workspace& workspace, Stream stream);

}  // namespace cuda
}  // namespace tokamak::moe
