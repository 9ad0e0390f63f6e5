// SPDX-License-Identifier: Apache-2.0
// What the host hands to the grouped kernel.
#pragma once

#include <cstdint>
#include <vector>

#include "moe/cuda/decode_args.h"

namespace tokamak::moe::cuda {

/// Most rows of one expert that mma.m16n8k16 multiplies at a time.
inline constexpr int kMostTileRows = 32;
/// Most (token, slot) pairs of a pass; a larger batch takes several inside the launch.
inline constexpr int kMostPassRoutes = 8192;
inline constexpr int kGatherWarps = 2;  ///< that gather activation rows
/// The same where the grid makes one list of routes; such a kernel does one pass.
inline constexpr int kMostGridRoutes = 65536;

/// Numbers in front of the counts of row tiles: a cache line for the counter of units.
inline constexpr int kDealtUnitsRoom = 32;

/// Rows of one expert that share a pass over its weights.
struct RowTile {
    int first;            ///< in the list of routes
    std::int16_t expert;  ///< local
    std::int16_t rows;
    std::int16_t place;  ///< among the expert's tiles
    std::int16_t count;  ///< of them
    int cost_before;     ///< of a strip for all tiles before this one
};

/// Into how many units the strips of a row tile are cut, those that have one more first. Made by the host: a division
/// costs a warp a hundred cycles and more, and every launch does its first ones with everybody waiting.
struct UnitCut {
    Divisor units;
    int each = 0;    ///< strips of a unit
    int longer = 0;  ///< units with one more

    UnitCut() = default;
    UnitCut(int strips, int count) : units(count), each(strips / count), longer(strips - strips / count * count) {}
};

inline constexpr int kCombinePieces = 7;   ///< most of a job
inline constexpr int kShortJobPieces = 4;  ///< the same where jobs are done under the last units

/// Jobs of the combine are neighbouring pieces of a token's columns, of 128, or of 32 where columns are not whole
/// fours; those of a token go to different CTAs, for tokens have different numbers of results here.
struct CombineCut {
    int pieces = 0;  ///< of a token
    int length = 0;  ///< most of a job
    Divisor parts;   ///< jobs of a token

    CombineCut() = default;
    /// At least as many jobs as `shares`, where there is as much to do.
    CombineCut(int cols, std::int64_t tokens, std::int64_t shares);
    /// Short jobs, about one for each of `warps` if there is so little to do: all loads of a job are on their way at
    /// once.
    static CombineCut short_jobs(int cols, std::int64_t tokens, std::int64_t warps);

  private:
    void cut(int most);
};

/// Units that a CTA knows of at once. The warp that asks for them is ahead of the others by at most the stages of the
/// ring, of which a unit has one or more, and one unit.
inline constexpr int kUnitDeals = 8;
inline constexpr int kUnitDealBytes = 48;

/// Places in GroupedShared::counts.
inline constexpr int kCompleteTiles = 6;
inline constexpr int kCombineCounter = 7;

/// Byte offsets into dynamic shared memory; the ring comes first, building the lists uses its place.
struct GroupedShared {
    int barriers = 0;  ///< [2, stages]
    /// [8]: an expert has several row tiles, row tiles, units of one in each phase, cost, down range (units that are
    /// asked for: row tiles with few units, row tiles whose results are there), jobs of the combine that are taken
    int counts = 0;
    int list = 0;          ///< [routes] u16: routes, expert by expert
    int tiles = 0;         ///< [row tiles] RowTile
    int route_expert = 0;  ///< [routes] i16: local expert, or -1
    int tile_ends = 0;     ///< [local experts] i16: row tiles of an expert and of all before it
    int maxima = 0;        ///< [2, rows of a tile] u32, for quantised rows
    int unit_routes = 0;   ///< [2, rows of a tile] i32, where lists are in the workspace
    int deals = 0;         ///< UnitDeals
    int bytes = 0;
};

struct GroupedArgs : DecodeArgs {
    DecodeRows input_weights;  ///< of RoutingWeight::input
    /// Workspace for rows of x or of the intermediate in another form, [routes of a pass, whole groups of 128 columns],
    /// with a scale for each group (prepare.cuh).
    std::uint16_t* prepared_rows = nullptr;
    float* row_scales = nullptr;
    /// Quantised rows alone: scales of the intermediate's codes [routes of a pass, groups of 128 columns].
    float* intermediate_scales = nullptr;
    std::int32_t* tile_units = nullptr;    ///< workspace: [row tiles], gate/up units that are done
    std::int32_t* dealt_units = nullptr;   ///< workspace: units that CTAs have asked for
    std::int32_t* grid_list = nullptr;     ///< workspace: [routes], routes expert by expert
    std::uint32_t* grid_places = nullptr;  ///< workspace: [routes]
    std::int32_t* cta_counts = nullptr;    ///< workspace: [CTAs, local experts]
    std::int64_t first_token = 0;          ///< of the launch
    int pass_tokens = 0;
    int stages = 0;
    int gate_up_units = 0;  ///< of a row tile, where CTAs ask for units
    int down_units = 0;
    GroupedShared lists;
    /// Where CTAs ask for units: of gate/up, of the down phase, of its last `fine_tiles` row tiles.
    UnitCut cuts[3];
    int fine_tiles = 0;
    CombineCut combine;
    bool plain_output = false;  ///< results alone make the rows of `out`, bf16 that is stored four at a time
    bool clears_first = false;  ///< rows of tokens without any are written at the beginning, in vectors of eight
};

/// A compiled kernel with what the host must know about it.
struct GroupedInstance {
    const void* kernel = nullptr;
    const void* waiting_kernel = nullptr;  ///< the same where a launch before may still write ids; null: none
    const char* name = nullptr;            ///< of the variant
    int threads = 0;
    int stage_bytes = 0;
    int tile_rows = 0;
    bool grid_lists = false;
    int most_stages = 0;
    bool converted = false;  ///< weights are converted for wgmma
    /// Units of a row tile of a matrix with so many strips and tiles of a strip, where CTAs ask for them.
    int (*units)(int strips, int tiles) = nullptr;
};

std::vector<GroupedInstance> grouped_bf16();
std::vector<GroupedInstance> grouped_fp8_block();
std::vector<GroupedInstance> grouped_fp8_block_many();
std::vector<GroupedInstance> grouped_fp8_block_a16();
std::vector<GroupedInstance> grouped_int4_g32();
std::vector<GroupedInstance> grouped_int4_g64();
std::vector<GroupedInstance> grouped_int4_g128();
std::vector<GroupedInstance> grouped_int4_g32_f16();
std::vector<GroupedInstance> grouped_int4_g64_f16();
std::vector<GroupedInstance> grouped_int4_g128_f16();
std::vector<GroupedInstance> grouped_mxfp4();
std::vector<GroupedInstance> grouped_nvfp4();

}  // namespace tokamak::moe::cuda
