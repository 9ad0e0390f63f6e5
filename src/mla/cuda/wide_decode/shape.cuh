// SPDX-License-Identifier: Apache-2.0
// Sizes and shared memory of the wide decode kernel: 64 heads a block, fp8 rows that stay in shared memory as they are.
#pragma once

#include "mla/cuda/sparse_decode/decode.cuh"
#include "mla/cuda/sparse_decode/statistics.cuh"

namespace tokamak::mla::cuda::wide_decode {

using namespace sparse_decode;

inline constexpr int kHeads = 64;
inline constexpr int kWideThreads = 512;  ///< one warpgroup scores, two add values, one brings rows
inline constexpr int kBringers = 128;
inline constexpr int kRing = 3;  ///< blocks of raw rows

/// A block of rows in shared memory: slabs of 64 rows by 128 bytes under the swizzle. Codes of 128 dimensions are a slab
/// (of 512 dimensions the last one is filled by half), the rotary values another; scales lie apart.
template <int Dim>
struct RawRow {
    static constexpr int kCodes = Dim == 576 ? 512 : 448;
    static constexpr int kScales = Dim == 576 ? 4 : 7;
};
inline constexpr int kCodeSlabs = 4;
inline constexpr int kRotarySlab = kCodeSlabs;

inline constexpr int kWideBuffers = 2;  ///< blocks of softmax weights

struct WideControl : Control<kHeads, kWideBuffers> {
    std::uint64_t read[kRing][4];  ///< sixteen rows of a block have been read: an arrival per accumulating warp
    std::uint64_t settled[kRing];  ///< a block is settled: an arrival per bringing warp
    unsigned head_top[kHeads];     ///< largest magnitude of a head's query elements, as bf16
    alignas(16) float head_factor[kHeads];                 ///< what makes a head's score an exponent of 2
    alignas(16) std::uint16_t ratio[kRing][8][kRowBlock];  ///< scales divided by the row's power, f16
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
};

/// Where splits exchange their sums, when nobody reads queries, weights and rows any more: parts for others at 0, those
/// of all splits, their statistics.
inline constexpr std::uint32_t kLanding = kHeads * 1024;
inline constexpr std::uint32_t kStatistics = kLanding + 36 * (16 * kHeads * 2);
static_assert(kStatistics + kMaxSplits * sizeof(SplitSums<kHeads>) <= Layout<512>::kControl);

}  // namespace tokamak::mla::cuda::wide_decode
