// SPDX-License-Identifier: Apache-2.0
// Sizes and shared memory of the paired decode kernel: 64 heads of a token, rows in two buffers of 64.
#pragma once

#include "cuda/ptx/named_arrive.cuh"
#include "mla/cuda/sparse_decode/rows.cuh"

namespace tokamak::mla::cuda::paired_decode {

using namespace sparse_decode;

inline constexpr int kHeads = 64;
inline constexpr int kPairedThreads = 384;  ///< two warpgroups of mathematics, one that brings rows
inline constexpr int kTurnThreads = 256;
inline constexpr int kHalfSlabs = 4;  ///< of the 256 output dimensions of a warpgroup
inline constexpr int kHalfDims = 256;
inline constexpr int kPerWarp = 16;  ///< rows of a block that a producer warp brings: those of a product of the values
inline constexpr int kBlockWarps = kRowBlock / kPerWarp;

/// Named barriers.
enum : int {
    kPairedStart = 1,
    kAskedBarrier = 8,
    kAllQueriesBarrier = 9,
    kTurnBarrier = 2,
    kScoredBarrier = 3,
    kSummedBarrier = 4,
    kFactorsBarrier = 5,
    kSideBarrier = 6 /* and 7 */
};

/// A buffer comes and is let go in halves: of the first buffer the left half, then the right one and what is no value;
/// of the second one the right half first.
template <int Dim>
struct PairedShape {
    static constexpr int kSlabs = Dim / kSlabDims;
    static constexpr int kRight = kSlabs - kHalfSlabs;  ///< slabs of the right half
    static constexpr std::uint32_t kBlockBytes = kSlabs * kSlabBytes;
    static constexpr std::uint32_t kQueries = 0;
    /// Parts of other splits land where the queries were: 66 KB of 6 splits.
    static constexpr std::uint32_t kRows = 9 * kHeads * 128;
    /// The first buffer's weights take the place of its rotary slab, when that was scored; sums of the splits that of
    /// the second one's.
    static constexpr std::uint32_t kSecondWeights = kRows + 2 * kBlockBytes;
    static constexpr std::uint32_t kFirstWeights =
        Dim == 576 ? kRows + (kSlabs - 1) * kSlabBytes : kSecondWeights + kSlabBytes;
    static constexpr std::uint32_t kSplitSums =
        Dim == 576 ? kRows + kBlockBytes + (kSlabs - 1) * kSlabBytes : kSecondWeights + 2 * kSlabBytes;
    static constexpr std::uint32_t kControl = kSecondWeights + (Dim == 576 ? 1 : 3) * kSlabBytes;

    /// Slabs of the half that comes first or second.
    [[nodiscard]] __device__ static constexpr int first_slab(int buffer, int half) {
        return buffer == half ? 0 : kHalfSlabs;
    }
    [[nodiscard]] __device__ static constexpr int last_slab(int buffer, int half) {
        return buffer == half ? kHalfSlabs : kSlabs;
    }
    [[nodiscard]] __device__ static constexpr std::uint32_t slab(int buffer, int slab) {
        return kRows + buffer * kBlockBytes + slab * kSlabBytes;
    }
};

/// Four 8x8 matrices of 16-bit elements: lane l gives the address of row l % 8 of matrix l / 8.
__device__ __forceinline__ void store_matrix(std::uint32_t address, const std::uint32_t (&fragment)[4]) {
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(address), "r"(fragment[0]),
                 "r"(fragment[1]), "r"(fragment[2]), "r"(fragment[3])
                 : "memory");
}

/// Before the tensor cores read what cp.async brought, behind the barrier on which its copies arrived: the acquiring
/// half of a fence between the proxies. It is no instruction (nvcc 13.0), but the compiler keeps the order; a whole
/// fence took 100 cycles of each half of a block. CUTLASS multiplies what cp.async brought behind such a barrier
/// without any.
__device__ __forceinline__ void fence_acquire_async() {
    asm volatile("fence.proxy.async::generic.acquire.sync_restrict::shared::cluster.cluster;" ::: "memory");
}

struct PairedControl {
    std::uint64_t full[2][2];  ///< a half is there: an arrival per producing thread
    /// Of a half, a bringing warp's rows may be written: an arrival per warp of the warpgroup that read it last.
    std::uint64_t empty[2][2][kBlockWarps];
    std::uint64_t weighed[2];                ///< a buffer's weights and references are there: an arrival per warp
    std::uint64_t ahead;                     ///< the first side has started its scores: an arrival per warp
    std::uint64_t told;                      ///< sums of the other splits
    std::uint64_t landed;                    ///< their parts of what this split owns
    alignas(8) std::uint16_t valid[4][4];    ///< rows of a block that take part, by the warp that brings them
    alignas(16) float reference[2][kHeads];  ///< what the weights of a buffer's block are relative to
    float sum[2][kHeads];                    ///< of a warpgroup's weights
    float top[2][kHeads];                    ///< largest scores, if asked for
};

template <int Dim>
inline constexpr std::uint32_t kPairedBytes = PairedShape<Dim>::kControl + sizeof(PairedControl);
static_assert(kPairedBytes<576> <= 232448 && kPairedBytes<512> <= 232448);

}  // namespace tokamak::mla::cuda::paired_decode
