// SPDX-License-Identifier: Apache-2.0
// What the host hands to the decode kernel.
#pragma once

#include <cstddef>
#include <cstdint>

#include "tokamak/moe/fused_moe.h"

namespace tokamak::moe::cuda {

/// Tokens of one pass over the weights; a larger batch takes several inside the launch.
inline constexpr int kPassTokens = 8;
/// Most (token, slot) pairs of a pass.
constexpr int pass_routes(int top_k) noexcept { return kPassTokens * top_k; }

/// Most tokens and (token, slot) pairs of a pass where each expert's rows are gathered.
inline constexpr int kGatherTokens = 128;
inline constexpr int kGatherRoutes = 1024;

/// Floats that a warp needs to route a token in shared memory: whole batches of its loops.
inline constexpr int kScoreRoom = 256;
constexpr int score_room(int experts) noexcept {
    return experts <= kScoreRoom ? kScoreRoom + 64 : (experts + 127) / 128 * 128;
}

/// Experts of a lane where a warp routes a token in registers, and how many a warp then has.
inline constexpr int kLaneExperts = 8;
inline constexpr int kWarpExperts = 32 * kLaneExperts;
/// Floats of shared memory that it needs for that.
inline constexpr int kLaneRoom = kWarpExperts + 64;
/// Whether it can: a group of experts is a power of two of whole lanes.
constexpr bool routes_in_registers(int experts, int groups) noexcept {
    if (experts > kWarpExperts || experts % kLaneExperts != 0) return false;
    const int lanes = experts / groups / kLaneExperts;
    return groups == 1 || (lanes * kLaneExperts * groups == experts && (lanes & (lanes - 1)) == 0);
}

/// Divides without a division, which costs a warp a hundred cycles: exact while dividend * value < 2^32.
struct Divisor {
    std::uint32_t value = 1;
    std::uint32_t magic = 0;  ///< ceil(2^32 / value), not used for 1

    Divisor() = default;
    explicit Divisor(std::int64_t by)
        : value(static_cast<std::uint32_t>(by)),
          magic(by > 1 ? static_cast<std::uint32_t>(((std::uint64_t{1} << 32) + value - 1) / value) : 0) {}
};

/// The warps of a CTA form teams; a team shares a strip, its warps split k.
struct DecodeTeams {
    Divisor count;
    Divisor warps;  ///< of a team

    DecodeTeams() = default;
    DecodeTeams(int cta_warps, int teams) : count(teams), warps(cta_warps / teams) {}
};

/// An optional matrix of run-time type; null if absent.
struct DecodeRows {
    const void* data = nullptr;
    std::int64_t stride = 0;  ///< elements
    DType dtype = DType::f32;
};

/// The packed weights of all experts with their bias.
struct DecodeMatrix {
    const std::uint8_t* packed = nullptr;
    std::int64_t expert_bytes = 0;  ///< from one expert to the next
    DecodeRows bias;
    int cols = 0;         ///< true columns
    int padded_cols = 0;  ///< of whole tiles
    Divisor row_vectors;  ///< padded columns / 8
    std::int64_t strip_bytes = 0;
    int strips = 0;
    Divisor by_strips;
    int tiles = 0;  ///< of a strip
};

/// Routing from logits inside the launch; absent without them.
struct DecodeRoute {
    DecodeRows logits;
    const float* bias = nullptr;
    bool softmax = true;
    bool renormalize = true;
    bool weighted = true;  ///< else every route weighs 1
    bool vectors = false;  ///< rows of logits and the bias fit vectors of 16 bytes
    float factor = 1.0F;
    std::int16_t groups = 1;  ///< also where all of them are kept
    std::int16_t top_groups = 1;
    std::int16_t group_lanes = 1;  ///< lanes that have the experts of a group, where a warp routes in registers
    bool in_registers = false;
};

/// Byte offsets into dynamic shared memory; the ring comes first.
struct DecodeShared {
    int scales = 0;        ///< [warps, slots, 2] f32, for formats whose strips end with scales; else 128 bytes of zeros
    int partials = 0;      ///< [2, warps, 8 tokens, rows of a piece] f32
    int rows = 0;          ///< token rows: scores while routing, those of x, later the intermediate rows of each team
    int gate_up_bias = 0;  ///< [teams, 2, 64 rows] f32, behind the rows of x
    int down_bias = 0;     ///< the same behind the intermediate rows
    int groups = 0;        ///< their group sums or scales, for formats that have them
    int barriers = 0;      ///< [warps, slots]
    int active = 0;        ///< [active experts]: local expert
    int slot_of = 0;       ///< [active experts, 8 tokens] i32: first route to it, or kNoSlot
    int route_expert = 0;  ///< [routes] i16: local expert, or -1
    int route_rank = 0;    ///< [routes] i16: index into `active`, or -1
    int route_weight = 0;  ///< [routes]
    int bitmap = 0;        ///< one bit for each local expert; then the number of active ones and that of rounds
    int bitmap_words = 0;  ///< a multiple of 4
    int route_groups = 0;  ///< gathered: [groups + 1] RouteGroup
    int route_list = 0;    ///< [routes] u16: expert by expert
    int live_routes = 0;   ///< one bit for each route that has an expert here; then the number of groups
    int live_words = 0;
    int x_team_rows = 0;  ///< bytes from one team's rows of x to the next; 0: they share them
    int x_team_groups = 0;
    int team_rows = 0;  ///< bytes from one team's intermediate rows to the next
    int team_groups = 0;
    int bytes = 0;
};

struct DecodeArgs {
    std::int64_t tokens = 0;
    const std::int32_t* num_tokens = nullptr;
    const void* x = nullptr;  ///< bf16
    std::int64_t x_stride = 0;
    bool x_vectors = false;  ///< rows are aligned to 16 bytes
    DecodeRows ids;
    DecodeRows weights;         ///< absent: 1
    bool weight_input = false;  ///< they multiply the token rows, not the results
    DecodeRoute route;
    bool routed_before = false;  ///< by a launch that may still run when this one starts
    const std::int32_t* expert_map = nullptr;
    int first_expert = 0;
    int num_experts = 0;
    int local_experts = 0;
    int top_k = 0;
    Divisor by_top_k;
    Divisor grid;  ///< CTAs
    DecodeMatrix gate_up;
    DecodeMatrix down;
    Activation activation;
    DecodeRows shared_output;
    void* out = nullptr;
    std::int64_t out_stride = 0;
    DType out_dtype = DType::bf16;
    bool accumulate = false;
    bool live_rows_only = false;   ///< tokens none of whose experts is here keep what `out` holds
    void* intermediate = nullptr;  ///< workspace: bf16 (f32 if quantised) [routes of a pass, intermediate_stride]
    std::int64_t intermediate_stride = 0;
    float* partials = nullptr;  ///< workspace: [routes of a pass, hidden]
    DecodeShared shared;
    DecodeTeams gate_up_teams;
    DecodeTeams down_teams;
    int slots = 0;          ///< of each warp's ring
    int gather_tokens = 0;  ///< of a pass, where each expert's rows are gathered
    int group_rows = 0;     ///< most rows of an expert that are multiplied together there, even
    Divisor by_group_rows;
};

/// A compiled kernel with what the host must know about it.
struct DecodeInstance {
    const void* kernel = nullptr;
    int warps = 0;
    int piece_bytes = 0;  ///< what a slot of a ring holds
    int pieces = 0;       ///< of a tile, by rows
    int tile_cols = 0;
    int value_bytes = 0;  ///< of a token's value in shared memory
    int group = 0;
    bool token_groups = false;  ///< token rows have a number for each group
    bool strip_scales = false;
};

DecodeInstance decode_bf16();
DecodeInstance decode_fp8_block();
DecodeInstance decode_fp8_block_a16();
DecodeInstance decode_int4_g32();
DecodeInstance decode_int4_g64();
DecodeInstance decode_int4_g128();
DecodeInstance decode_int4_g32_f16();
DecodeInstance decode_int4_g64_f16();
DecodeInstance decode_int4_g128_f16();
DecodeInstance decode_mxfp4();
DecodeInstance decode_nvfp4();

/// The same formats with each expert's rows gathered.
DecodeInstance gather_bf16();
DecodeInstance gather_fp8_block();
DecodeInstance gather_fp8_block_a16();
DecodeInstance gather_int4_g32();
DecodeInstance gather_int4_g64();
DecodeInstance gather_int4_g128();
DecodeInstance gather_int4_g32_f16();
DecodeInstance gather_int4_g64_f16();
DecodeInstance gather_int4_g128_f16();
DecodeInstance gather_mxfp4();
DecodeInstance gather_nvfp4();

}  // namespace tokamak::moe::cuda
