// SPDX-License-Identifier: Apache-2.0
// Shared memory and barriers of the wide decode kernel for few tokens. Rows, queries and weights lie as in the form
// with clusters.
#pragma once

#include <cstddef>

#include "cuda/ptx/named_arrive.cuh"
#include "mla/cuda/wide_decode/instances.h"
#include "mla/cuda/wide_decode/shape.cuh"

namespace tokamak::mla::cuda::wide_decode {

static_assert(kMostShare == 4 * kRowBlock);

inline constexpr int kFewDim = 576;
inline constexpr int kFewBringers = 128;  ///< the first warpgroup
inline constexpr int kFewMath = 256;  ///< two warpgroups, each scores every other block of rows and adds half of all
inline constexpr int kFewThreads = kFewBringers + kFewMath;
inline constexpr int kFewMathRegisters = 200;
inline constexpr int kFewBringRegisters = 104;
inline constexpr int kMostPublished = 16;  ///< splits
inline constexpr int kFewBlocks = 4;       ///< blocks of rows of the longest share, two pairs: all in shared memory
inline constexpr int kRotaryPlaces = 2;    ///< of their rotary values those of a pair

/// Named barriers.
enum : int {
    kFewStartBarrier = 0,
    kFewQueriesBarrier = 1,
    kFewTopsBarrier = 2,
    kFewWeightsBarrier = 3,
    kFewSumsBarrier = 4,
    kFewStagedBarrier = 5,
    kFewStoredBarrier = 6,
    kFewReadyBarrier = 7,
    kFewHeadsBarrier = 8,
    kFewFirstBarrier = 9,
    kFewMergedBarrier = 10
};

/// This thread's lane, read anew: what is made from it is not kept in registers from one use to the next.
__device__ __forceinline__ int lane_anew() {
    int lane;
    asm volatile("mov.u32 %0, %%laneid;" : "=r"(lane));
    return lane;
}

/// What scores of a row are shifted by, as exponents of 2, and what takes that out of its weight again.
struct RowNote {
    float shift, inverse;
};

struct FewControl {
    std::uint64_t full[kFewBlocks];            ///< rows of a block have come: an arrival per bringing thread
    std::uint64_t rotary_full[kRotaryPlaces];  ///< rotary values of the second pair's block, which come later
    std::uint64_t rotary_read[kRotaryPlaces];  ///< those of the first pair's block have been multiplied: per math warp
    std::uint64_t counted[kFewBlocks];         ///< a block's live rows are known: per bringing warp
    std::uint64_t settled[kFewBlocks];         ///< per bringing warp
    int live[kFewBlocks][4];  ///< live rows of the share up to the end of the block, of each bringing warp
    alignas(16) RowNote note[kFewBlocks][kRowBlock];            ///< shift -infinity: a masked row
    alignas(16) std::uint16_t ratio[kFewBlocks][4][kRowBlock];  ///< scales divided by the row's power, f16
    alignas(16) float head_factor[kHeads];                      ///< what makes a head's score an exponent of 2
    alignas(16) float top[2][kHeads];                           ///< of a warpgroup's blocks
    alignas(16) float reference[kHeads];
    alignas(16) float sum[2][kHeads];  ///< of a warpgroup's blocks
    alignas(16) float factor[kHeads];  ///< of the splits' sums; 0: head is empty
    union {
        uint4 scales[kFewBlocks][kRowBlock];                ///< of rows, as they lie in memory
        std::uint32_t part_factor[kMostPublished][kHeads];  ///< behind the last scores: two f16 numbers
    };
    alignas(16) Params params;  ///< as in the constant bank, of which every line is 250 cycles away
};

/// Weights, and parts of the output on their way, take the place of the queries.
struct FewLayout {
    static constexpr std::uint32_t kWeights = 0;
    static constexpr std::uint32_t kWeightBytes = kHeads * 128;  ///< of a block
    static constexpr std::uint32_t kStaged = kFewBlocks * kWeightBytes;
    static constexpr std::uint32_t kKept = 8 * kSlabBytes;
    static constexpr std::uint32_t kRows = 9 * kSlabBytes;
    static constexpr std::uint32_t kBlockBytes = kCodeSlabs * kSlabBytes;
    static constexpr std::uint32_t kRotary = kRows + kFewBlocks * kBlockBytes;
    static constexpr std::uint32_t kControl = kRotary + kRotaryPlaces * kSlabBytes;
    static constexpr std::uint32_t kScales = kControl + offsetof(FewControl, scales);
    static constexpr std::uint32_t kScaleBytes = 16;  ///< of a row
    static constexpr std::uint32_t kBytes = kControl + sizeof(FewControl);
    static_assert(kBytes <= 232448);
};

}  // namespace tokamak::mla::cuda::wide_decode
