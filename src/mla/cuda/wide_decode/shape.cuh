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
inline constexpr int kScorers = 128;
inline constexpr int kBringers = 128;
inline constexpr int kRing = 3;  ///< blocks of raw rows

/// A block of rows in shared memory: slabs of 64 rows by 128 bytes under the swizzle. Codes of 128 dimensions are a
/// slab (of 512 dimensions the last one is filled by half), the rotary values another; scales lie apart.
template <int Dim>
struct RawRow {
    static constexpr int kCodes = Dim == 576 ? 512 : 448;
    static constexpr int kScales = Dim == 576 ? 4 : 7;
};
inline constexpr int kCodeSlabs = 4;
inline constexpr int kRotarySlab = kCodeSlabs;

/// Where this block stands: its token and heads, and its share of the rows.
struct WidePlace {
    int rank, token, first_head;
};

inline constexpr int kWideBuffers = 2;  ///< blocks of softmax weights

struct WideControl : Control<kHeads, kWideBuffers> {
    std::uint64_t read[kRing][4];  ///< sixteen rows of a block have been read: an arrival per accumulating warp
    std::uint64_t settled[kRing];  ///< a block is settled: an arrival per bringing warp
    alignas(16) float head_factor[kHeads];                 ///< what makes a head's score an exponent of 2
    alignas(16) std::uint16_t ratio[kRing][8][kRowBlock];  ///< scales divided by the row's power, f16
    std::uint64_t counted;                                 ///< first_live is there: an arrival per bringing warp
    int first_live[4];                                     ///< live rows of the first block, of each bringing warp
    alignas(16) PoolParams pools[2];  ///< as in the parameters, of which every line is 250 cycles away
    alignas(16) SplitSums<kHeads> splits[kMaxSplits];
};

template <int Dim>
struct Layout {
    static constexpr std::uint32_t kWeights = 9 * kSlabBytes;  ///< behind the queries
    static constexpr std::uint32_t kRows = kWeights + kWideBuffers * kHeads * 128;
    static constexpr std::uint32_t kStageBytes = (kCodeSlabs + 1) * kSlabBytes;
    static constexpr std::uint32_t kScales = kRows + kRing * kStageBytes;
    static constexpr std::uint32_t kScaleBytes = 16;  ///< of a row
    static constexpr std::uint32_t kControl = kScales + kRing * kRowBlock * kScaleBytes;
    static constexpr std::uint32_t kBytes = kControl + sizeof(WideControl);
    static_assert(kBytes <= 232448);
};

/// Parts of the output land in place of the queries, which nobody reads after the last scores: 36 at most, as 6 splits
/// of which not all own the same number send.
static_assert(36 * kPartBytes<kHeads> <= Layout<576>::kWeights && 36 * kPartBytes<kHeads> <= Layout<512>::kWeights);

/// A part of the output, 16 dimensions by all heads, waits for its copy in the two places of the ring that the last
/// block of rows is not in, 16 parts in each.
template <int Dim>
__device__ __forceinline__ std::uint32_t staged_part(int part, int blocks) {
    const int place = (blocks + part / 16) % kRing;
    return Layout<Dim>::kRows + place * Layout<Dim>::kStageBytes + part % 16 * kPartBytes<kHeads>;
}

}  // namespace tokamak::mla::cuda::wide_decode
