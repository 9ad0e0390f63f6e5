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
    int strips = 0;
    int tiles = 0;  ///< of a strip
};

/// Byte offsets into dynamic shared memory; the ring comes first.
struct DecodeShared {
    int partials = 0;      ///< [2, warps, 8 tokens, 64 rows] f32
    int rows = 0;          ///< token rows: those of x, later the intermediate rows of each team
    int gate_up_bias = 0;  ///< [teams, 2, 64 rows] f32, behind the rows of x
    int down_bias = 0;     ///< the same behind the intermediate rows
    int sums = 0;          ///< their group sums, for formats with a zero point
    int barriers = 0;      ///< [warps, slots]
    int active = 0;        ///< [active experts]: local expert
    int slot_of = 0;       ///< [active experts, 8 tokens] u16: first route to it, or kNoSlot
    int route_expert = 0;  ///< [routes] i16: local expert, or -1
    int route_rank = 0;    ///< [routes] i16: index into `active`, or -1
    int route_weight = 0;  ///< [routes]
    int bitmap = 0;        ///< one bit for each local expert; then the number of active ones
    int team_rows = 0;     ///< elements from one team's intermediate rows to the next
    int team_sums = 0;
    int bytes = 0;
};

struct DecodeArgs {
    std::int64_t tokens = 0;
    const std::int32_t* num_tokens = nullptr;
    const void* x = nullptr;  ///< bf16
    std::int64_t x_stride = 0;
    bool x_vectors = false;  ///< rows are aligned to 16 bytes
    DecodeRows ids;
    DecodeRows weights;  ///< absent: 1
    const std::int32_t* expert_map = nullptr;
    int first_expert = 0;
    int num_experts = 0;
    int local_experts = 0;
    int top_k = 0;
    DecodeMatrix gate_up;
    DecodeMatrix down;
    Activation activation;
    DecodeRows shared_output;
    void* out = nullptr;
    std::int64_t out_stride = 0;
    DType out_dtype = DType::bf16;
    bool accumulate = false;
    void* intermediate = nullptr;  ///< workspace: bf16 [routes of a pass, intermediate]
    float* partials = nullptr;     ///< workspace: [routes of a pass, hidden]
    DecodeShared shared;
    int gate_up_teams = 1;  ///< the warps of a CTA form this many teams; a team shares a strip, its warps split k
    int down_teams = 1;     ///< the same in the second phase
    int slots = 0;          ///< of each warp's ring
};

/// A compiled kernel with what the host must know about it.
struct DecodeInstance {
    const void* kernel = nullptr;
    int warps = 0;
    int tile_bytes = 0;
    int tile_cols = 0;
    int group = 0;
    bool zero_point = false;
};

DecodeInstance decode_int4_g32();
DecodeInstance decode_int4_g64();
DecodeInstance decode_int4_g128();
DecodeInstance decode_mxfp4();

}  // namespace tokamak::moe::cuda
