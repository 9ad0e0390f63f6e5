// SPDX-License-Identifier: Apache-2.0
// Sizes and shared memory of the wide decode kernel: 64 heads a block, fp8 rows that stay in shared memory as they are.
#pragma once

#include "mla/cuda/sparse_decode/decode.cuh"
#include "mla/cuda/sparse_decode/exchange.cuh"
#include "mla/cuda/sparse_decode/statistics.cuh"

namespace tokamak::mla::cuda::wide_decode {

using namespace sparse_decode;

inline constexpr int kHeads = 64;
inline constexpr int kWideThreads = 512;  ///< one warpgroup scores, two add values, one brings rows
inline constexpr int kBringers = 128;
inline constexpr int kRing = 3;  ///< blocks of raw rows

/// A row in shared memory: 576 as in memory; 512 with its scales behind it. The pitch is an odd number of 16-byte
/// units, so that the lanes of a warp read 16 bytes of rows four apart, or 8 bytes of rows two apart, from different
/// banks.
template <int Dim>
struct RawRow {
    static constexpr int kPitch = Dim == 576 ? 656 : 592;
    static constexpr int kScaleByte = Dim == 576 ? 512 : 576;
    static constexpr int kRotaryByte = Fp8Row<Dim>::kRotaryByte;
    static constexpr int kCodeSlabs = Fp8Row<Dim>::kCodeSlabs;
    static constexpr int kScales = Dim == 576 ? 4 : 7;
};

/// Row of 16 at index k of a fragment. Lanes g = 0..7 score rows k = g and k = g + 8, lanes c = 0..3 add rows
/// k = 2 c, 2 c + 1 and these + 8; this order keeps both free of bank conflicts.
__device__ __forceinline__ constexpr int row_at(int k) {
    const int low = k & 7;
    return (low % 2 == 0 ? low : 8 + (low + 3) % 8) + k / 8;
}

struct WideControl : Control<kHeads> {
    std::uint64_t settled[kRing];  ///< a block's rows are there and settled: an arrival per bringing warp
    /// What a head's scores are multiplied by: its queries' power and the softmax scale.
    alignas(16) float query_factor[kHeads];
    /// Of a block's rows by their index k in fragments: scales divided by the row's power, for the values.
    alignas(16) std::uint16_t ratio[kRing][8][kRowBlock];
    alignas(16) SplitSums<kHeads> splits[kMaxSplits];
};

/// Scales of a row for the scores, divided by its power, in f32: four, or eight (the last is none).
template <int Dim>
inline constexpr int kRowScaleBytes = Dim == 576 ? 16 : 32;

/// Parts of the output land in place of the queries, which nobody reads after the last scores: 36 at most, as 6 splits of
/// which not all own the same number send.
inline constexpr std::uint32_t kLandingBytes = 36 * kPartBytes<kHeads>;

template <int Dim>
struct Layout {
    static_assert(kHeads * Dim * 2 <= kLandingBytes);
    static constexpr std::uint32_t kWeights = kLandingBytes;  ///< behind the queries
    static constexpr std::uint32_t kRows = kWeights + kHeads * 128;
    static constexpr std::uint32_t kStageBytes = kRowBlock * RawRow<Dim>::kPitch;
    static constexpr std::uint32_t kControl = kRows + kRing * kStageBytes;
    static constexpr std::uint32_t kRowScales = (kControl + sizeof(WideControl) + 15) / 16 * 16;
    static constexpr std::uint32_t kBytes = kRowScales + kRing * kRowBlock * kRowScaleBytes<Dim>;
};

/// While splits exchange their sums: a part of the output, 16 dimensions by all heads, waits for its copy in the two
/// places of the ring that the last block of rows is not in, 16 parts in each.
template <int Dim>
__device__ __forceinline__ std::uint32_t staged_part(int part, int blocks) {
    const int place = (blocks + part / 16) % kRing;
    return Layout<Dim>::kRows + place * Layout<Dim>::kStageBytes + part % 16 * kPartBytes<kHeads>;
}

}  // namespace tokamak::mla::cuda::wide_decode
