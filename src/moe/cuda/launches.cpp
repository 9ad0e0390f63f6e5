// SPDX-License-Identifier: Apache-2.0
#include "moe/cuda/launches.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <utility>

#include "core/throw.h"
#include "cuda/check.h"
#include "moe/cuda/driver_launch.h"
#include "moe/fused_moe_state.h"

namespace tokamak::moe::cuda {
namespace {

using tokamak::cuda::check;

constexpr const char* kOp = "fused_moe";

/// Loads a kernel, allows it all shared memory and makes sure that a CTA fits on an SM, as the grid barrier needs.
/// Returns what `launch` takes.
const void* load(const void* kernel, int threads, int shared_bytes, const std::string& name, const DeviceInfo& info) {
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                               static_cast<int>(info.shared_memory_bytes)),
          "cudaFuncSetAttribute");
    int ctas = 0;
    check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&ctas, kernel, threads, static_cast<std::size_t>(shared_bytes)),
          "cudaOccupancyMaxActiveBlocksPerMultiprocessor");
    if (ctas < 1) fail(ErrorCode::internal, "{}: variant {} does not fit on an SM", kOp, name);
    return launchable(kernel);
}

/// `early`: the kernel waits itself for the launch before, and may start while that one runs. `cluster`: CTAs of one.
struct GridLaunch {
    int ctas = 0;
    bool early = false;
    int cluster = 1;
};

void launch_grid(const FusedMoeState& state, const void* kernel, int threads, int shared_bytes, void* args,
                 Stream stream, const GridLaunch& how) {
    void* parameters[] = {args};
    launch({.kernel = kernel,
            .ctas = static_cast<unsigned>(how.ctas),
            .threads = static_cast<unsigned>(threads),
            .shared_bytes = static_cast<unsigned>(shared_bytes),
            .cluster = static_cast<unsigned>(how.cluster),
            .early = how.early},
           state.device.index, parameters, stream);
}

/// Whether a token's results may be rounded to bf16 before they are added. A sum of many terms without a bias is small
/// against its terms, which have been rounded with the intermediate; a single result would be rounded twice.
bool allows_half_results(const DecodeArgs& args) {
    constexpr int many = 256;
    return args.out_dtype == DType::bf16 && args.top_k > 1 && args.down.bias.data == nullptr && args.down.cols >= many;
}

}  // namespace

DecodeLaunch freeze(const DecodeInstance& instance, const DecodeVariant& variant, const DeviceInfo& info) {
    const int threads = instance.warps * 32;
    return {.kernel = load(instance.kernel, threads, variant.shared.bytes, variant.name, info),
            .threads = threads,
            .gate_up_teams = DecodeTeams(instance.warps, variant.gate_up_teams),
            .down_teams = DecodeTeams(instance.warps, variant.down_teams),
            .slots = variant.slots,
            .group_rows = variant.group_rows,
            .by_group_rows = Divisor(std::max(variant.group_rows, 1)),
            .shared = variant.shared};
}

GroupedLaunch freeze(const GroupedVariant& variant, const DecodeArgs& args, const DeviceInfo& info) {
    const GroupedInstance& instance = variant.instance;
    const void* const kernel = load(instance.kernel, instance.threads, variant.shared.bytes, instance.name, info);
    const auto units = [&](const auto& matrix) {
        return instance.units != nullptr ? instance.units(matrix.strips, matrix.tiles) : 0;
    };
    const void* const waiting = instance.waiting_kernel == nullptr ? nullptr
                                                                   : load(instance.waiting_kernel, instance.threads,
                                                                          variant.shared.bytes, instance.name, info);
    return {kernel,
            waiting,
            instance.threads,
            variant.stages,
            variant.shared,
            instance.grid_lists,
            units(args.gate_up),
            units(args.down)};
}

WideLaunch freeze(const WideVariant& variant, bool atomic, const DeviceInfo& info) {
    const WideInstance& instance = variant.instance;
    const auto loaded = [&](const void* kernel) {
        return kernel == nullptr ? nullptr : load(kernel, instance.threads, variant.shared.bytes, instance.name, info);
    };
    const void* const adds = instance.atomic_kernel != nullptr ? instance.atomic_kernel : instance.kernel;
    return {loaded(instance.kernel),
            loaded(instance.half_kernel),
            atomic ? loaded(adds) : nullptr,
            instance.threads,
            variant.stages,
            variant.shared,
            instance.pairs,
            instance.converted};
}

SingleLaunch freeze(const DecodeInstance& instance, const SingleVariant& variant, const DecodeArgs& args,
                    const DeviceInfo& info) {
    const int threads = (instance.warps + kServiceWarps) * 32;
    return {.kernel = load(instance.kernel, threads, variant.shared.bytes, variant.name, info),
            .threads = threads,
            .slots = variant.slots,
            .gate_up_segments = variant.gate_up_segments,
            .down_segments = variant.down_segments,
            .gate_up_tiles = Divisor(args.gate_up.tiles),
            .down_tiles = Divisor(args.down.tiles),
            .shared = variant.shared};
}

void run_decode(const FusedMoeState& state, const DecodeLaunch& choice, DecodeArgs& args, Stream stream) {
    args.shared = choice.shared;
    args.gate_up_teams = choice.gate_up_teams;
    args.down_teams = choice.down_teams;
    args.slots = choice.slots;
    args.gather_tokens = static_cast<int>(state.cuda.gather_tokens);
    args.group_rows = choice.group_rows;
    args.by_group_rows = choice.by_group_rows;
    const void* const kernel = args.route.logits.data != nullptr ? choice.logits_kernel : choice.kernel;
    launch_grid(state, kernel, choice.threads, choice.shared.bytes, &args, stream,
                {.ctas = state.cuda.grid, .early = args.routed_before && choice.group_rows > 0});
}

namespace {

/// The last few row tiles of the down phase have twice as many units, so that all CTAs end at about the same time. Few,
/// because half a unit takes 60% of the time, and who is done earlier combines tokens.
void cut_units(GroupedArgs& args, int ctas) {
    const int fine = std::min(2 * args.down_units, std::max(1, args.down.strips));
    args.cuts[0] = UnitCut(args.gate_up.strips, args.gate_up_units);
    args.cuts[1] = UnitCut(args.down.strips, args.down_units);
    args.cuts[2] = UnitCut(args.down.strips, fine);
    args.fine_tiles = ctas / (4 * args.down_units);
}

/// Whether rows of `out`, in 16 bits, are aligned to `count` columns.
bool whole_vectors(const DecodeArgs& args, int count) {
    return args.gate_up.cols % count == 0 && args.out_stride % count == 0 &&
           reinterpret_cast<std::uintptr_t>(args.out) % (2 * static_cast<unsigned>(count)) == 0;
}

void cut_results(GroupedArgs& args, int warps) {
    args.plain_output = args.out_dtype == DType::bf16 && !args.accumulate && args.shared_output.data == nullptr &&
                        whole_vectors(args, 4);
    args.clears_first = args.gate_up_units > 0 && args.plain_output && !args.live_rows_only && whole_vectors(args, 8);
    const std::int64_t tokens = std::min<std::int64_t>(args.tokens, args.pass_tokens);
    args.combine = args.gate_up_units > 0 ? CombineCut::short_jobs(args.gate_up.cols, tokens, warps)
                                          : CombineCut(args.gate_up.cols, tokens, 2 * std::int64_t{warps});
}

}  // namespace

void run_grouped(const FusedMoeState& state, const GroupedLaunch& choice, const DecodeArgs& common,
                 const Workspace& workspace, Stream stream) {
    GroupedArgs args;
    static_cast<DecodeArgs&>(args) = common;
    if (args.weight_input) std::swap(args.input_weights, args.weights);
    args.prepared_rows = state.cuda.prepared_rows.in(workspace);
    args.row_scales = state.cuda.row_scales.in(workspace);
    args.intermediate_scales = state.cuda.intermediate_scales.in(workspace);
    args.dealt_units = state.cuda.tile_units.in(workspace);
    args.tile_units = args.dealt_units + kDealtUnitsRoom;
    args.grid_list = state.cuda.grid_list.in(workspace);
    args.grid_places = state.cuda.grid_places.in(workspace);
    args.cta_counts = state.cuda.cta_counts.in(workspace);
    args.pass_tokens = static_cast<int>(choice.grid_lists ? state.cuda.grid_pass_tokens : state.cuda.pass_tokens);
    args.stages = choice.stages;
    args.gate_up_units = choice.gate_up_units;
    args.down_units = choice.down_units;
    args.lists = choice.shared;
    if (choice.gate_up_units > 0) cut_units(args, state.cuda.grid);
    cut_results(args, state.cuda.grid * (choice.threads / 32));
    const std::int64_t launch_tokens = choice.grid_lists ? args.pass_tokens : args.tokens;
    // A pass waits for the launch before. A count on the device may be 0: then there is no pass.
    const bool early = args.routed_before && choice.waiting_kernel != nullptr && args.num_tokens == nullptr;
    for (; args.first_token < args.tokens; args.first_token += launch_tokens)
        launch_grid(state, early ? choice.waiting_kernel : choice.kernel, choice.threads, choice.shared.bytes, &args,
                    stream, {.ctas = state.cuda.grid, .early = early});
}

namespace {

/// Matrices become those that the matrix units read: 8 bits, in tiles of 128 columns.
void convert_matrices(const FusedMoeState& state, const Workspace& workspace, WideArgs& args) {
    std::int32_t* counts = state.cuda.wide_slot_counts.in(workspace);
    for (int phase = 0; phase < 2; ++phase) {
        DecodeMatrix& matrix = phase == 1 ? args.down : args.gate_up;
        const WideConversionPlan plan = wide_conversion(state.problem, phase == 1, state.cuda.slot_experts);
        args.conversions[phase] = {.packed = matrix.packed,
                                   .expert_bytes = matrix.expert_bytes,
                                   .strip_bytes = matrix.strip_bytes,
                                   .tiles = matrix.tiles,
                                   .units = plan.units,
                                   .count = static_cast<int>(plan.slots),
                                   .slot_bytes = plan.slot_bytes,
                                   .slots = reinterpret_cast<std::uint8_t*>(state.cuda.wide_slots[phase].in(workspace)),
                                   .made = counts,
                                   .used = counts + plan.jobs};
        counts += 2 * plan.jobs;
        matrix.tiles = static_cast<int>(plan.tiles);
        matrix.padded_cols = matrix.tiles * 128;
        matrix.row_vectors = Divisor(matrix.padded_cols / 8);
        matrix.strip_bytes = plan.tiles * kWideSlotTileBytes;
    }
    args.converters = wide_converters(state.problem, wide_grid(state.cuda.grid), args.tokens);
}

}  // namespace

void run_wide(const FusedMoeState& state, const WideLaunch& choice, const DecodeArgs& common,
              const Workspace& workspace, Stream stream) {
    WideArgs args;
    static_cast<DecodeArgs&>(args) = common;
    if (args.weight_input) std::swap(args.input_weights, args.weights);
    args.list = state.cuda.wide_list.in(workspace);
    args.counts = state.cuda.wide_counts.in(workspace);
    args.places = state.cuda.wide_places.in(workspace);
    args.owners = state.cuda.wide_owners.in(workspace);
    args.factors = state.cuda.wide_factors.in(workspace);
    args.expert_results = state.cuda.wide_ready.in(workspace);
    args.tile_rows = args.expert_results + args.local_experts;
    args.tile_parts = state.cuda.tile_units.in(workspace);
    args.dealt = state.cuda.wide_dealt.in(workspace);
    args.stages = choice.stages;
    args.lists = choice.shared;
    // Results are added eight at a time, or not at all.
    args.atomic = choice.atomic_kernel != nullptr && args.out_dtype == DType::bf16 && whole_vectors(args, 8);
    if (choice.converted) convert_matrices(state, workspace, args);
    const bool half = choice.half_kernel != nullptr && allows_half_results(args);
    const void* const kernel = args.atomic ? choice.atomic_kernel : half ? choice.half_kernel : choice.kernel;
    for (std::int64_t first = 0; first < args.tokens; first += state.cuda.wide_tokens) {
        args.first_token = first;
        args.pass_tokens = static_cast<int>(std::min(state.cuda.wide_tokens, args.tokens - first));
        const GridLaunch pairs{.ctas = wide_grid(state.cuda.grid), .cluster = std::min(state.cuda.grid, 2)};
        launch_grid(state, kernel, choice.threads, choice.shared.bytes, &args, stream,
                    choice.pairs ? pairs : GridLaunch{.ctas = state.cuda.grid});
    }
}

void run_single(const FusedMoeState& state, const SingleLaunch& choice, const DecodeArgs& common,
                const Workspace& workspace, Stream stream) {
    SingleArgs args;
    static_cast<DecodeArgs&>(args) = common;
    args.slots = choice.slots;
    args.gate_up_tiles = choice.gate_up_tiles;
    args.down_tiles = choice.down_tiles;
    args.published = state.cuda.published.in(workspace);
    args.activated = state.cuda.activated.in(workspace);
    args.gate_up_segments = choice.gate_up_segments;
    args.down_segments = choice.down_segments;
    args.parts = choice.shared;
    for (; args.token < args.tokens; ++args.token)
        launch_grid(state, choice.kernel, choice.threads, choice.shared.bytes, &args, stream,
                    {.ctas = state.cuda.grid});
}

}  // namespace tokamak::moe::cuda
