// SPDX-License-Identifier: Apache-2.0
// Shared memory and barriers of the wide decode kernel for few tokens. Rows, queries and weights lie as in the form
// with clusters.
#pragma once

#include "cuda/ptx/named_arrive.cuh"
#include "mla/cuda/wide_decode/instances.h"
#include "mla/cuda/wide_decode/shape.cuh"

namespace tokamak::mla::cuda::wide_decode {

inline constexpr int kFewDim = 576;
inline constexpr int kFewBringers = 128;  ///< the first warpgroup
inline constexpr int kFewMath = 256;  ///< two warpgroups, each scores every other block of rows and adds half of all
inline constexpr int kFewThreads = kFewBringers + kFewMath;
inline constexpr int kFewMathRegisters = 224;
inline constexpr int kFewBringRegisters = 56;
inline constexpr int kMostPublished = 16;  ///< splits

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
    kFewTurnBarrier = 8,
    kFewHeadsBarrier = 9
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
    std::uint64_t full[kRing];     ///< rows of a block have come: an arrival per bringing thread
    std::uint64_t counted[kRing];  ///< its live rows are known: per bringing warp
    std::uint64_t settled[kRing];  ///< per bringing warp
    std::uint64_t read[kRing];     ///< a block has been added: per math warp
    int live[kRing][4];            ///< live rows of the share up to the end of the block, of each bringing warp
    alignas(16) RowNote note[kRing][kRowBlock];                     ///< shift -infinity: a masked row
    alignas(16) std::uint16_t ratio[kRing][4][kRowBlock];           ///< scales divided by the row's power, f16
    alignas(16) float head_factor[kHeads];                          ///< what makes a head's score an exponent of 2
    alignas(16) float top[2][kHeads];                               ///< of a warpgroup's block
    alignas(16) float correction[kHeads];                           ///< factor of older sums
    alignas(16) float reference[kHeads];                            ///< at the end
    alignas(16) float sum[2][kHeads];                               ///< of a warpgroup's blocks
    alignas(16) float factor[kHeads];                               ///< of the splits' sums; 0: head is empty
    alignas(16) std::uint32_t part_factor[kMostPublished][kHeads];  ///< two f16 numbers
    alignas(16) Params params;  ///< as in the constant bank, of which every line is 250 cycles away
};

struct FewLayout {
    static constexpr std::uint32_t kWeights = Layout<kFewDim>::kWeights;
    static constexpr std::uint32_t kRows = Layout<kFewDim>::kRows;
    static constexpr std::uint32_t kStageBytes = Layout<kFewDim>::kStageBytes;
    static constexpr std::uint32_t kScales = Layout<kFewDim>::kScales;
    static constexpr std::uint32_t kScaleBytes = Layout<kFewDim>::kScaleBytes;
    static constexpr std::uint32_t kControl = Layout<kFewDim>::kControl;
    static constexpr std::uint32_t kBytes = kControl + sizeof(FewControl);
    static_assert(kBytes <= 232448);
};

}  // namespace tokamak::mla::cuda::wide_decode
