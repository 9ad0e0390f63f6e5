// SPDX-License-Identifier: Apache-2.0
// Sizes and shared memory of the grid form for 32 heads a block: fp8 rows of 512, all rows of a share at once.
#pragma once

#include "mla/cuda/flat_decode/direct_shape.cuh"
#include "mla/cuda/grid_decode/instances.h"

namespace tokamak::mla::cuda::grid_decode {

using namespace flat_decode;
using namespace flat_decode::direct;

/// Named barriers beside those of the direct kernel, whose kRowsBarrier are of four warps with the same rows and heads.
inline constexpr int kReadBarrier = 7;
/// The first four warps help: three bring rows, one waits for the grid and brings the last few; later all settle sums.
inline constexpr int kBringers = 3;

/// Sixteen warps score: by heads (a half), by rows (every other one), by dimensions (a quarter). Rows come in turns of
/// 16, eight for each four warps. Of four turns each warp weighs one; of the fifth, an element of every lane's four.
struct Shape {
    using Row = DirectRow<512>;
    static constexpr int kTurns = kGridRows / 16;
    static constexpr int kRestTurn = 4;  ///< the one that is left
    static_assert(kTurns == kRestTurn + 1);
    static constexpr int kShareBytes = 512;  ///< of eight rows, of which a warp has scored a quarter of the dimensions
    static constexpr int kPartials = kDirectWarps * 3 * kShareBytes;
    static constexpr int kRestBytes = 4 * 4 * 128;  ///< of that turn, for four warps
    static constexpr int kRestPartials = 4 * kRestBytes;
    static constexpr int kWeightPitch =
        kGridRows * kGridHeads * 2;  ///< of a version: of codes f16, of rotary values bf16
    /// Of heads g and g + 8 of a half, word by word side by side, so that 16 bytes are an operand of a product.
    static constexpr int kPairPitch = 2 * 512 * 2 + 16;
    static constexpr int kQueryBytes = kGridHeads / 2 * kPairPitch;
    static constexpr std::uint32_t kCodes = 0;
    static constexpr std::uint32_t kTails = kCodes + kGridRows * Row::kCodePitch;
    static constexpr std::uint32_t kQueries = kTails + kGridRows * kTailPitch;
    static constexpr std::uint32_t kScores = kQueries + kQueryBytes;
    static constexpr std::uint32_t kRestScores = kScores + kPartials;
    static constexpr std::uint32_t kWeights = kRestScores + kRestPartials;
    static constexpr std::uint32_t kControl = kWeights + 2 * kWeightPitch;
};

/// Row of a turn of 16, of its first half, in column c of a product (row_of_column); the other half's is the next one.
[[nodiscard]] __device__ constexpr unsigned row_in_turn(unsigned c) { return c % 2 == 0 ? c : 8 + (c + 3) % 8; }

struct GridControl {
    static constexpr int kEights = kGridRows / 8;
    static constexpr int kSlots = 8;       ///< of the warps that weigh a head's rows
    std::uint64_t rows[2][Shape::kTurns];  ///< an arrival of each lane that copies
    std::uint64_t described;               ///< rows: an arrival per helping warp
    std::uint64_t settled;                 ///< factors: an arrival per helping warp
    alignas(16) float2 power[kEights][8];  ///< x: exponent of the row's power, -infinity if masked; y: inverse
    alignas(16) std::uint16_t ratio[7][kEights][8];  ///< scales divided by the row's power, f16
    alignas(16) float maximum[kGridHeads][kSlots];
    alignas(16) float sum[kGridHeads][kSlots];
    alignas(16) float factor[kGridHeads][kGridSplits];  ///< what the parts of each split are multiplied by
    float reference[kGridHeads];
    float scale[kGridHeads];  ///< of scores, as exponents of two
};

inline constexpr int kGridBytes = Shape::kControl + sizeof(GridControl);

}  // namespace tokamak::mla::cuda::grid_decode
