// SPDX-License-Identifier: Apache-2.0
// What the host hands to the wide kernel.
#pragma once

#include <cstdint>

#include "moe/cuda/decode_args.h"

namespace tokamak::moe::cuda {

/// Of each consumer warp in shared memory: where sums are turned, then its place in the order of work.
inline constexpr int kWideTurnBytes = 512;
inline constexpr int kWidePatchBytes = kWideTurnBytes + 128;
inline constexpr int kWideToldPlace = 64;  ///< behind where sums are turned: counts of what was told
/// Feeding warps of a CTA that copy nothing: they prepare, clear and combine under the multiplications.
inline constexpr int kWideIdleWarps = 2;
/// Of each of them in shared memory: results on their way, with a barrier and 16 bytes about each.
inline constexpr int kWideEarlyBytes = 5248;
/// Columns of an intermediate from which on rows are prepared and tokens combined under the multiplications.
inline constexpr int kWideOverlapCols = 1536;
/// Of each of eight consumer warps in shared memory: where results of many quantised rows are turned.
inline constexpr int kWideTallBytes = 1024;
/// What the consumers share about each row of a unit whose results are quantised.
inline constexpr int kWideGroupRowBytes = 8;
/// The same where rows are rounded to what e4m3 leaves.
inline constexpr int kWideRoundRowBytes = kWideGroupRowBytes + 4;

/// Units whose ends a CTA keeps what they need of (WideUnitEnd).
inline constexpr int kWideEnds = 4;

inline constexpr int kMostWideStages = 8;
/// What is dealt to who asks: units of the phases, and jobs of what surrounds them.
inline constexpr int kWideGateUpUnits = 0;
inline constexpr int kWideDownUnits = 1;
inline constexpr int kWidePrepareJobs = 2;
inline constexpr int kWideLaterRows = 3;
inline constexpr int kWideCombineJobs = 4;
/// Warps that have cleared what they had to, or found the owners of their places.
inline constexpr int kWideCleared = 5;
/// Tokens that have results to combine (quantised rows).
inline constexpr int kWideCombineTokens = 6;
/// Tokens with a route here (quantised rows).
inline constexpr int kWideLiveTokens = 7;
/// CTAs whose share of the rows is quantised (converted weights).
inline constexpr int kWideQuantized = 8;
inline constexpr int kWideCounters = 9;

/// Units that a CTA keeps, more than it can have at hand: a role is at most a ring of stages behind the first one, and
/// a unit has a stage at least.
inline constexpr int kWideDeals = 16;
inline constexpr int kWideDealBytes = 32;
/// What the consumers share about units whose results are quantised.
inline constexpr int kWideGroupBytes = kWideDeals * 4 + 8;

/// Strips that a unit of converted weights has at most, and rows of weights in them, each with a scale.
inline constexpr int kWideSlotStrips = 4;
inline constexpr int kWideSlotRows = kWideSlotStrips * 64;
inline constexpr int kWideSlotTileBytes = 8192;  ///< of a strip, for 128 columns
/// Units whose scales a CTA keeps: more than a ring of four stages can be ahead of a consumer.
inline constexpr int kWideSlotScales = 6;
/// Of shared memory: those scales, and the jobs that units' weights are from.
inline constexpr int kWideSlotBytes = kWideSlotScales * kWideSlotRows * 4 + kWideDeals * 4;

/// Byte offsets into dynamic shared memory; the ring comes first, building the lists uses its place.
struct WideShared {
    int barriers = 0;  ///< [2, stages], one of no stage
    int facts = 0;     ///< WideFacts
    int patches = 0;   ///< [consumer warps, kWidePatchBytes]
    int group = 0;     ///< WideGroupScratch, for quantised rows; WideRoundScratch for rounded ones; [kWideEnds] of
                       ///< WideUnitEnd where the warp that copies rows brings them
    int begins = 0;    ///< [local experts + 1]: first place of an expert in the list of routes
    int deals = 0;     ///< [kWideDeals] of WideDeal, then of what one CTA of a pair tells the other
    int tiles = 0;     ///< [local experts + 1]: row tiles before an expert
    int early = 0;     ///< [kWideIdleWarps, kWideEarlyBytes], where tokens are combined early; quantised rows:
                       ///< [8, kWideTallBytes], where results of tall tiles are turned
    int slots = 0;     ///< [kWideSlotBytes], for converted weights
    int bytes = 0;
};

/// A matrix whose 4-bit weights CTAs of their own convert to 8 bits, unit by unit, for all row tiles of an expert
/// (converted.cuh). What consumers multiply lies in slots that are used again and again.
struct WideConversion {
    const std::uint8_t* packed = nullptr;
    std::int64_t expert_bytes = 0;
    std::int64_t strip_bytes = 0;
    int tiles = 0;  ///< of 64 columns
    int units = 0;  ///< of an expert
    int count = 0;  ///< slots
    std::int64_t slot_bytes = 0;
    std::uint8_t* slots = nullptr;  ///< workspace: tiles as the ring takes them, strip by strip, then scales of rows
    std::int32_t* made = nullptr;   ///< workspace: [local experts * units], parts of a unit that are converted
    std::int32_t* used = nullptr;   ///< workspace: the same, consumer warps that have multiplied by it
};

/// `partials` holds rows of results (results.cuh) and, behind them, the rows of x in the form of the ring (TileRows,
/// WideTileCodes); in that form `intermediate` has its own.
struct WideArgs : DecodeArgs {
    DecodeRows input_weights;            ///< of RoutingWeight::input
    std::int64_t first_token = 0;        ///< of the pass
    int pass_tokens = 0;                 ///< at most, from there on
    std::int32_t* list = nullptr;        ///< workspace: [routes], routes expert by expert
    std::int32_t* counts = nullptr;      ///< workspace: [CTAs, local experts], routes of a CTA's share
    std::int32_t* places = nullptr;      ///< workspace: [routes], their places in the list or -1
    std::int32_t* owners = nullptr;      ///< workspace: [routes], for each place the token that has its last one there;
                                         ///< quantised rows: tokens with routes here, then those with results to
                                         ///< combine
    std::int32_t* tile_rows = nullptr;   ///< workspace: [row tiles], parts of a tile's rows of x that are there
    std::int32_t* tile_parts = nullptr;  ///< workspace: [row tiles], parts of a tile's intermediate that are there
    std::int32_t* expert_results = nullptr;  ///< workspace: [local experts], parts of an expert's results
    std::int32_t* dealt = nullptr;           ///< workspace: [kWideCounters]
    bool atomic = false;                     ///< results are added to `out` instead of kept for a combine
    int stages = 0;
    WideShared lists;
    float* factors = nullptr;       ///< workspace: [routes], what results at a place are multiplied by (quantised rows)
    WideConversion conversions[2];  ///< of gate/up and down, if any
    int converters = 0;             ///< the last CTAs of the grid, which convert weights
};

/// A compiled kernel with what the host must know about it.
struct WideInstance {
    const void* kernel = nullptr;
    const char* name = nullptr;  ///< of the variant
    int threads = 0;
    int stage_bytes = 0;
    int most_rows = 0;  ///< of a unit
    bool quantized = false;
    bool pairs = false;                   ///< clusters of two CTAs
    bool converted = false;               ///< weights, by CTAs of their own
    int end_bytes = 0;                    ///< of WideUnitEnd, if it has that
    int stage_cols = 0;                   ///< of a stage of the ring
    const void* atomic_kernel = nullptr;  ///< of the atomic combine, if that has its own
    const void* half_kernel = nullptr;    ///< which keeps rows of results in bf16 (launches.cpp says when), if any
};

WideInstance wide_bf16_n160();
WideInstance wide_bf16_n160_half();
WideInstance wide_bf16_n160_atomic();
WideInstance wide_fp8_block_n128();
WideInstance wide_fp8_block_n128_atomic();
WideInstance wide_int4_g32_n128();
WideInstance wide_int4_g32_n64();
WideInstance wide_int4_g32_n64_atomic();
WideInstance wide_int4_g32_n96();
WideInstance wide_int4_g32_a8_n64();
WideInstance wide_int4_g32_a8_n96();
WideInstance wide_int4_g64_n128();
WideInstance wide_int4_g128_n128();
WideInstance wide_int4_g32_f16_n128();
WideInstance wide_int4_g64_f16_n128();
WideInstance wide_int4_g128_f16_n128();
WideInstance wide_mxfp4_n128();
WideInstance wide_mxfp4_n48();
WideInstance wide_mxfp4_n48_atomic();
WideInstance wide_mxfp4_n64();
WideInstance wide_mxfp4_n64_atomic();
WideInstance wide_mxfp4_n96();
WideInstance wide_mxfp4_a8_n128();
WideInstance wide_mxfp4_a8_n128_atomic();
WideInstance wide_mxfp4_a8_n64_bf16();
WideInstance wide_mxfp4_a8_n96_bf16();
WideInstance wide_nvfp4_n128();
WideInstance wide_nvfp4_n48();
WideInstance wide_nvfp4_n48_atomic();
WideInstance wide_nvfp4_n64();
WideInstance wide_nvfp4_n64_atomic();
WideInstance wide_nvfp4_n96();
WideInstance wide_nvfp4_n96_atomic();

}  // namespace tokamak::moe::cuda
