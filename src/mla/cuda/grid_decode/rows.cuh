// SPDX-License-Identifier: Apache-2.0
// The rows of the share, brought as they are by the helping warps, which say what weighing needs to know of them.
#pragma once

#include "mla/cuda/flat_decode/direct_load.cuh"
#include "mla/cuda/grid_decode/shape.cuh"

namespace tokamak::mla::cuda::grid_decode {

/// ptx::copy_arrive on a barrier at a shared address.
__device__ __forceinline__ void copy_arrive(std::uint32_t barrier) {
    asm volatile("cp.async.mbarrier.arrive.noinc.shared.b64 [%0];" ::"r"(barrier) : "memory");
}

/// Rows are asked for in fours, half of a turn's eight columns: by turns, those of a turn by row halves. Bringing warps
/// have every third four of them, the warp that waits for the grid the last few.
struct Bringing {
    static constexpr int kFours = kGridRows / 4;
    static constexpr int kLate = kFours % kBringers;  ///< fours of that warp
    static constexpr int kEach = kFours / kBringers;
    static_assert(4 * kEach <= 32 && kLate > 0);
    [[nodiscard]] __host__ __device__ static constexpr unsigned fours_of(bool late) { return late ? kLate : kEach; }
    /// Number `own` of a warp's fours.
    [[nodiscard]] __device__ static constexpr unsigned four(bool late, unsigned warp, unsigned own) {
        return late ? kFours - kLate + own : own * kBringers + warp;
    }
};

/// Where a row is among the turns, and whether there is one.
struct BroughtRow {
    unsigned turn, half, column;
    bool exists;
    [[nodiscard]] __device__ __forceinline__ unsigned row() const { return 16 * turn + half + row_in_turn(column); }
};
/// Row j of a warp.
template <bool Late>
__device__ __forceinline__ BroughtRow brought_row(unsigned warp, unsigned j) {
    const unsigned four = Bringing::four(Late, warp, j / 4);
    return {four / 4, four / 2 % 2, four % 2 * 4 + j % 4, j < 4 * Bringing::fours_of(Late)};
}

/// Copies the rows of a warp, of which lane j found row j.
template <bool Late>
__device__ __forceinline__ void copy_rows(const Params& params, GridControl& control, std::uint32_t base, Found found,
                                          unsigned warp, unsigned lane) {
    using S = Shape;
    constexpr unsigned kPitch = DirectRow<512>::kCodePitch;
    if (!found.own.valid) found.own.values = params.pools[0].values;  // no byte of it is read
    const BroughtRow own = brought_row<Late>(warp, lane);
    if (own.exists)
        ptx::copy_small<8>(base + S::kTails + own.row() * kTailPitch,
                           found.own.valid ? found.own.scales : found.own.values, found.own.valid);
    const unsigned rows[2] = {row_in_turn(lane / 8), row_in_turn(4 + lane / 8)};
    const std::uint32_t codes[2] = {base + S::kCodes + rows[0] * kPitch, base + S::kCodes + rows[1] * kPitch};
    const std::uint32_t tails[2] = {base + S::kTails + rows[0] * kTailPitch + kRotaryInTail,
                                    base + S::kTails + rows[1] * kTailPitch + kRotaryInTail};
    const std::uint32_t barriers = ptx::shared_address(&control.rows[0][0]);
    // All shuffles first: one behind copies waits until these have left the queue that they share.
    constexpr unsigned kFours = Bringing::fours_of(Late);
    const std::uint8_t* values[kFours];
#pragma unroll
    for (unsigned n = 0; n < kFours; ++n) values[n] = found.values(static_cast<int>(4 * n + lane / 8));
#pragma unroll
    for (unsigned n = 0; n < kFours; ++n) {
        const unsigned four = Bringing::four(Late, warp, n);
        const unsigned place = four / 4 * 16 + four / 2 % 2;
        const int off = static_cast<int>(reinterpret_cast<std::uintptr_t>(values[n]) >> 4 & 7U);
        copy_row<512>(values[n], static_cast<int>(lane % 8) - off,
                      (four % 2 == 0 ? codes[0] : codes[1]) + place * kPitch,
                      (four % 2 == 0 ? tails[0] : tails[1]) + place * kTailPitch,
                      found.is_valid(static_cast<int>(4 * n + lane / 8)));
        copy_arrive(barriers + (four / 2 % 2 * S::kTurns + four / 4) * 8);
    }
}

/// By a lane for each row, when these have arrived.
__device__ __forceinline__ void describe(GridControl& control, std::uint32_t base, const BroughtRow& own, bool valid) {
    constexpr int kLeast = kUnitExponent - 60;
    constexpr int kMost = kUnitExponent + 60;
    const std::uint32_t tail = base + Shape::kTails + own.row() * kTailPitch;
    const uint2 scales = load_shared_8(tail);
    const int exponent = max(kLeast, min(kMost, largest_value(scales, tail) >> 23));
    const float inverse = power_of(2 * kUnitExponent - exponent);
    const unsigned eight = own.turn * 2 + own.half;
    control.power[eight][own.column] = {power_of_row(scales, exponent, valid), inverse};
#pragma unroll
    for (int g = 0; g < 7; ++g) {
        const unsigned code = (g < 4 ? scales.x : scales.y) >> (g % 4 * 8) & 0xFFU;
        control.ratio[g][eight][own.column] = __half_as_ushort(__float2half_rn(power_scale(code) * inverse));
    }
}

}  // namespace tokamak::mla::cuda::grid_decode
