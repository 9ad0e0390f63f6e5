// SPDX-License-Identifier: Apache-2.0
// What the host hands to the kernel for one token.
#pragma once

#include "moe/cuda/decode_args.h"

namespace tokamak::moe::cuda {

/// Most slots of a token: a lane each.
inline constexpr int kMostSingleRoutes = 32;
/// Warps of a CTA that do not multiply: they fetch the token, clear, and combine. The first ones.
inline constexpr int kServiceWarps = 4;

/// Byte offsets into dynamic shared memory; the rings come first.
struct SingleShared {
    int scales = 0;       ///< [warps, slots, 2] f32, for formats whose strips end with scales
    int barriers = 0;     ///< [warps, slots]
    int experts = 0;      ///< [all warps, 32]: local expert of each live route, a table for each warp
    int weights = 0;      ///< [all warps, 32]: its routing weight
    int scores = 0;       ///< [score_room], while routing
    int routed = 0;       ///< [2, 32]: ids and weights, from logits
    int sums = 0;         ///< [warps, segments of a warp, 64] f32
    int x = 0;            ///< the token's row
    int x_groups = 0;     ///< its group sums or scales, for formats that have them
    int rows = 0;         ///< intermediate rows of the routes that a CTA's down tiles need
    int row_groups = 0;   ///< theirs
    int row_pitch = 0;    ///< bytes from one route's row to the next
    int group_pitch = 0;  ///< floats
    int warp_segments = 0;
    int bytes = 0;
};

struct SingleArgs : DecodeArgs {
    std::int64_t token = 0;  ///< of the launch
    Divisor gate_up_tiles;   ///< of a strip
    Divisor down_tiles;
    float* published = nullptr;  ///< workspace: [grid, gate/up segments + down segments, 64]
    float* activated = nullptr;  ///< workspace: [routes, gate/up strips, 32]: the intermediate
    int gate_up_segments = 0;    ///< most of a CTA
    int down_segments = 0;
    SingleShared parts;
};

DecodeInstance single_bf16();
DecodeInstance single_fp8_block();
DecodeInstance single_fp8_block_a16();
DecodeInstance single_int4_g32();
DecodeInstance single_int4_g64();
DecodeInstance single_int4_g128();
DecodeInstance single_int4_g32_f16();
DecodeInstance single_int4_g64_f16();
DecodeInstance single_int4_g128_f16();
DecodeInstance single_mxfp4();
DecodeInstance single_nvfp4();

}  // namespace tokamak::moe::cuda
