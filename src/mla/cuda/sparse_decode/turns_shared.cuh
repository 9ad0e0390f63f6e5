// SPDX-License-Identifier: Apache-2.0
// Shared memory of the kernel in which two warpgroups take blocks of rows in turns.
#pragma once

#include "mla/cuda/sparse_decode/shared.cuh"

namespace tokamak::mla::cuda::sparse_decode {

inline constexpr int kTurnHeads = 64;         ///< of a thread block: the rows of its matrices
inline constexpr int kTurnMathThreads = 256;  ///< two warpgroups
inline constexpr int kTurnThreads = 512;

inline constexpr int kTurnDim = 512;  ///< of a row

/// Named barriers.
enum : int { kBothBarrier = 2 };

/// Registers of a thread by role.
struct TurnRegisters {
    static constexpr int kMath = 192;
    static constexpr int kProduce = 64;
};

struct TurnControl {
    static constexpr int kProducers = 8;
    static constexpr int kBlockThreads = kTurnThreads;
    static constexpr int kScaleBlocks = 2;
    static constexpr int kUnits = 1;

    std::uint64_t full[kMaxStages];
    std::uint64_t empty[kMaxStages];
    std::uint64_t published[2];  ///< weights of a warpgroup's block; an arrival for each of its warps
    std::uint64_t told, landed;
    alignas(16) int exponent[kNoteDepth][kRowBlock];
    alignas(16) float reference[kTurnHeads];   ///< kNoReference: none yet
    alignas(16) float correction[kTurnHeads];  ///< of older sums, with the weights published last
    int corrected[4];                          ///< by warp: whether any correction is not 1
    alignas(16) float sum[2][kTurnHeads];      ///< of a warpgroup's blocks
    alignas(16) float top[2][kTurnHeads];
    unsigned query_top;
};

}  // namespace tokamak::mla::cuda::sparse_decode
