// SPDX-License-Identifier: Apache-2.0
// Shared memory of the kernel in which two warpgroups take blocks of rows in turns.
#pragma once

#include "mla/cuda/sparse_decode/shared.cuh"

namespace tokamak::mla::cuda::sparse_decode {

inline constexpr int kTurnHeads = 64;         ///< of a thread block: the rows of its matrices
inline constexpr int kTurnMathThreads = 256;  ///< two warpgroups
inline constexpr int kTurnProducers = 4;      ///< warps
inline constexpr int kTurnThreads = kTurnMathThreads + 32 * kTurnProducers;

/// Registers of a thread by role.
struct TurnRegisters {
    static constexpr int kMath = 192;
    static constexpr int kProduce = 120;
};

/// Bytes of a block of rows in the ring, which holds one for each warpgroup.
template <int Dim>
inline constexpr int kTurnBlockBytes = Slabs<Dim>::kCount * kSlabBytes;

/// The usual power of a row: values are kept times 2^5, so that scales from 2^-16 to 2^2 need no power of their own.
inline constexpr int kPlainExponent = kUnitExponent - 5;

struct TurnControl {
    std::uint64_t full[2];       ///< a warpgroup's block is there: an arrival for each producer warp
    std::uint64_t empty[2];      ///< and no longer read: one for each math warp
    std::uint64_t published[2];  ///< weights of a warpgroup's block: one for each of its warps
    alignas(16) int exponent[2][kRowBlock];
    alignas(4) std::uint8_t plain[2][kTurnProducers];  ///< by warp: all of its rows take part, with the usual power
    int rests[2];  ///< the block is what rounding took away from the values; they come next
    alignas(16) float reference[kTurnHeads];           ///< kNoReference: none yet
    alignas(16) float correction[kTurnHeads];          ///< of older sums, with the weights published last
    int corrected[4];                                  ///< by warp: whether any correction is not 1
    alignas(16) float sum[2][kTurnHeads];              ///< of a warpgroup's blocks
    alignas(16) float top[2][kTurnHeads];
    unsigned query_top;
};

}  // namespace tokamak::mla::cuda::sparse_decode
