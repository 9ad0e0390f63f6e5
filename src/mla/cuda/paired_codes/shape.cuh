// SPDX-License-Identifier: Apache-2.0
// Sizes and shared memory of the paired decode kernel for fp8 rows of 512: 64 heads of a token, f16 rows in two buffers
// of 64, codes on their way.
#pragma once

#include "cuda/ptx/named_arrive.cuh"
#include "cuda/ptx/peer.cuh"
#include "mla/cuda/sparse_decode/rows.cuh"

namespace tokamak::mla::cuda::paired_codes {

using namespace sparse_decode;

inline constexpr int kHeads = 64;
inline constexpr int kThreads = 512;  ///< two warpgroups of mathematics, eight warps that bring and convert rows
inline constexpr int kTurnThreads = 256;
inline constexpr int kSlabs = 8;      ///< of a row: seven of codes, then the rotary values
inline constexpr int kHalfSlabs = 4;  ///< of the 256 output dimensions of a warpgroup
inline constexpr int kHalfDims = 256;
inline constexpr int kKeptDims = 128;             ///< of these, in one of two splits
inline constexpr int kPerWarp = 8;                ///< rows of a block that a producer warp has
inline constexpr int kReleases = kRowBlock / 16;  ///< a half is let go sixteen rows at a time
inline constexpr std::uint32_t kUnitBytes = 512;  ///< on their way: eight rows by 64 codes, or four by 64 rotary values
inline constexpr int kRingUnits = 6;              ///< of a producer warp; a block of rows is nine
inline constexpr int kPowerBits = 3;              ///< powers of rows are multiples of eight, so that most are alike

/// A buffer is filled and announced in halves, the right one (which has the rotary values) first. Side 0 has the right
/// half of the output, side 1 the left one.
enum Half : int { kRight = 0, kLeft = 1 };

// In a slab, of rows and of queries, word t of chunk n are dimensions 16 t + 2 n and the next (t below 4, n below 8):
// what a converting lane has of a row goes there by stmatrix, and a thread's sums are 16 dimensions side by side.
__device__ __forceinline__ void store_shared_word(std::uint32_t address, std::uint32_t word) {
    asm volatile("st.shared.u32 [%0], %1;" ::"r"(address), "r"(word) : "memory");
}

/// Where rows and queries lie in 64 of them: tiles of eight by 128 bytes, those of a slab side by side, or, if rows are
/// shared, those of the same eight in a half of the dimensions, so that what is sent is in one piece.
template <bool Shared>
struct Tiles {
    static constexpr std::uint32_t kTileBytes = 8 * 128;
    static constexpr std::uint32_t kSlab = Shared ? kTileBytes : kSlabBytes;  ///< to the next slab of a half
    static constexpr std::uint32_t kEight = Shared ? kHalfSlabs * kTileBytes : kTileBytes;  ///< to the next eight
    static constexpr std::uint32_t kHalf = kHalfSlabs * kSlabBytes;
    [[nodiscard]] __device__ static constexpr std::uint32_t slab(int slab) {
        return slab / kHalfSlabs * kHalf + slab % kHalfSlabs * kSlab;
    }
    [[nodiscard]] __device__ static std::uint32_t at(int row, int chunk) {
        return Shared ? row / 8 * kEight + swizzled(row % 8, chunk) : swizzled(row, chunk);
    }
};

/// From an address in this block's shared memory to the same one, in the cluster window, in that of the other block.
__device__ __forceinline__ std::uint32_t other_block(std::uint32_t base) {
    return ptx::address_in(ptx::cluster_rank() ^ 1U, base) - base;
}

/// Named barriers.
enum : int {
    kPairedStart = 1,
    kTurnBarrier = 2,
    kSummedBarrier = 4,
    kFactorsBarrier = 5,
    kSideBarrier = 6 /* and 7 */,
    kEightBarrier = 8 /* to 11 */
};

struct Layout {
    static constexpr std::uint32_t kQueries = 0;
    static constexpr std::uint32_t kRows = kSlabs * kHeads * 128;
    static constexpr std::uint32_t kBlockBytes = kSlabs * kSlabBytes;
    static constexpr std::uint32_t kWeights = kRows + 2 * kBlockBytes;
    static constexpr std::uint32_t kRaw = kWeights + kHeads * 128;
    static constexpr std::uint32_t kControl = kRaw + kRowBlock / kPerWarp * kRingUnits * kUnitBytes;
    /// Sums of the splits, when all rows have been converted.
    static constexpr std::uint32_t kSplitSums = kRaw;
    [[nodiscard]] __device__ static constexpr std::uint32_t slab(int buffer, int slab) {
        return kRows + buffer * kBlockBytes + slab * kSlabBytes;
    }
};

inline constexpr int kParamLineBytes = 64;  ///< of the constant bank
inline constexpr int kParamLines = sizeof(Params) / kParamLineBytes;
static_assert(kParamLines <= 32);

struct CodesControl {
    std::uint64_t full[2][2];  ///< a half is there: an arrival per producer warp
    std::uint64_t empty[2][2]
                       [kReleases];  ///< sixteen rows of it may be written: an arrival per warp that read them last
    std::uint64_t weighed[2];        ///< a buffer's weights and references are there: an arrival per warp
    std::uint64_t ahead;             ///< the first side has started its scores: an arrival per warp
    std::uint64_t told;              ///< sums of the other split
    std::uint64_t landed;            ///< its part of what this split owns
    static constexpr int kBarriers = 25;
    static constexpr int kTold = kBarriers - 2;
    static constexpr int kEmpties = 4 * kReleases;
    /// Of barrier number i, in their order. `Shared`: rows are let go by the warps of two blocks.
    template <bool Shared>
    [[nodiscard]] __device__ static constexpr std::uint32_t arrivals(int i) {
        if (Shared && i >= 4 && i < 4 + kEmpties) return 8;
        return i < 4 ? kRowBlock / kPerWarp : i < kTold ? 4 : 1;
    }
    alignas(16) std::uint8_t power[kNoteDepth][kRowBlock];  ///< of a block's rows, in eights; 0: masked
    /// Of a producer warp's rows of a block, if it is the same for all and none is masked; kMixed otherwise.
    alignas(8) std::uint8_t common_power[kNoteDepth][kRowBlock / kPerWarp];
    alignas(16) float reference[2][kHeads];  ///< what the weights of a buffer's block are relative to
    std::uint32_t touched[kParamLines];      ///< of the parameters; nobody reads it
    float head_factor[kHeads];               ///< what makes a score of f16 queries an exponent of 2
    struct Ended {
        float sum[2][kHeads];  ///< of a warpgroup's weights
        float top[2][kHeads];  ///< largest scores, if asked for
    };
    union {
        uint2 scales[kRowBlock / kPerWarp][2][kPerWarp];  ///< of the rows of a producer warp, of two blocks
        Ended ended;                                      ///< when all rows have been converted
    };
    /// common_power, of eight rows each, if rows are shared: a word can be sent.
    alignas(16) std::uint32_t shared_power[kNoteDepth][kRowBlock / kPerWarp];
};
static_assert(offsetof(CodesControl, landed) == (CodesControl::kBarriers - 1) * sizeof(std::uint64_t));
inline constexpr unsigned kMixed = 0xFF;

inline constexpr std::uint32_t kCodesBytes = Layout::kControl + sizeof(CodesControl);
static_assert(kCodesBytes <= 232448);

}  // namespace tokamak::mla::cuda::paired_codes
