// SPDX-License-Identifier: Apache-2.0
// Sizes and shared memory of the form that has all rows of a share at once, as f16: 64 heads a block, fp8 rows of 512.
#pragma once

#include "cuda/ptx/named_arrive.cuh"
#include "mla/cuda/sparse_decode/decode.cuh"
#include "mla/cuda/whole_decode/instances.h"

namespace tokamak::mla::cuda::whole_decode {

using namespace sparse_decode;

inline constexpr int kHeads = 64;
inline constexpr int kSlabs = 8;       ///< of 64 dimensions
inline constexpr int kMathWarps = 16;  ///< four warpgroups add values, the first two score half of the rows each
inline constexpr int kMathThreads = 32 * kMathWarps;
inline constexpr int kScoreThreads = 256;
inline constexpr int kWholeThreads = kMathThreads + 128;  ///< four helping warps
inline constexpr int kUnitRows = 8;                       ///< brought by a warp
inline constexpr int kUnits = kWholeRows / kUnitRows;
inline constexpr int kHalves = 2;  ///< of the rows
inline constexpr int kHalfRows = kWholeRows / kHalves;
static_assert(kUnits == kMathWarps + 2);

/// Which warps bring the first half of the rows: the first eight and a helping one. The next eight settle the queries
/// before they convert the second half, so that the first half is scored meanwhile.
inline constexpr int kQueryWarps = 8;
[[nodiscard]] __device__ __forceinline__ int unit_of(int warp) {
    if (warp >= kMathWarps) return warp == kMathWarps ? kUnits / 2 - 1 : kUnits - 1;
    return warp < kMathWarps / 2 ? warp : warp + 1;
}

/// Named barriers.
enum : int {
    kFirstHalfBarrier = 0,
    kTopsBarrier = 1,
    kSumsBarrier = 2,
    kWeightsBarrier = 3,
    kHeadsBarrier = 5,
    kMarkBarrier = 6,
    kTurnBarrier = 8,  ///< and two more
    kSecondHalfBarrier = 11
};

/// Of the first warpgroup, of the other warps that bring the first half of the rows and of those that settle queries.
inline constexpr int kFirstHalfThreads = 32 * (kUnits / kHalves + kQueryWarps);
/// Of the helping warps that bring rows, whose rows come first, and of the one that marks then.
inline constexpr int kMarkThreads = 96;
/// Of the two warps that have a head each thread, and of the one that has seen all splits' marks.
inline constexpr int kHeadsThreads = 96;
/// Of those who score, and of the two warps.
inline constexpr int kSumsThreads = kScoreThreads + 64;
/// Of those who add values, of the warp that has marked, and of the one that copies parameters.
inline constexpr int kWeightsThreads = kMathThreads + 64;
/// Of the second warpgroup and those that bring the second half.
inline constexpr int kSecondHalfThreads = 128 + 32 * (kUnits / kHalves);

/// A row's values are kept divided by `power`, 2^shift; shift -infinity: a masked row.
struct RowNote {
    float shift, power;
};

/// Rows whose scales are near this one, as they mostly are, are kept divided by one power. (It is a small one: beside
/// rows of a much larger power, weights of the others would lie below the normal numbers of f16.)
inline constexpr int kPlainExponent = 116;
enum : int { kMasked = 1, kOddPower = 2 };

struct WholeControl {
    std::uint64_t marked;  ///< places of parts of all splits
    std::uint64_t merged;  ///< what parts are multiplied by
    int special[kUnits];   ///< of the rows of a warp
    alignas(16) RowNote note[kWholeRows];
    alignas(16) float head_factor[kHeads];     ///< what makes a head's score an exponent of 2
    alignas(16) float above[kHalves][kHeads];  ///< references of the halves; -infinity: no row counts
    alignas(16) float sum[kHalves][kHeads];
    alignas(16) float factor[kHeads];                             ///< of the splits' sums; 0: head is empty
    alignas(16) std::uint32_t part_factor[kWholeSplits][kHeads];  ///< two f16 numbers
    /// What brings weights of a half to the reference of both, a power of two.
    [[nodiscard]] __device__ __forceinline__ float half_factor(int half, int head) const {
        const float both = max_or_nan(above[0][head], above[1][head]);
        return both == -kInfinity ? 1.0F : exp2_fast(above[half][head] - both);
    }
    alignas(16) Params params;  ///< as in the constant bank, of which every line is 250 cycles away
};

/// Weights and what a split keeps of its own output come where the queries were.
struct WholeLayout {
    static constexpr std::uint32_t kQuerySlab = kHeads * 128;
    /// Eight rows: slab behind slab, under the swizzle.
    static constexpr std::uint32_t kRowSlab = kUnitRows * 128;
    static constexpr std::uint32_t kUnit = kSlabs * kRowSlab;
    static constexpr std::uint32_t kWeights = 0;
    static constexpr std::uint32_t kKept = 4 * kQuerySlab;
    static constexpr std::uint32_t kRowsAt = kSlabs * kQuerySlab;
    static constexpr std::uint32_t kControl = kRowsAt + kUnits * kUnit;
    static constexpr std::uint32_t kBytes = kControl + sizeof(WholeControl);
    static_assert(kBytes <= 232448);
};

/// Where a block stands.
struct WholePlace {
    int rank, token, first_head;
};

}  // namespace tokamak::mla::cuda::whole_decode
