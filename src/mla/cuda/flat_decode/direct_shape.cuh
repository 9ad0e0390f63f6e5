// SPDX-License-Identifier: Apache-2.0
// Sizes and shared memory of the flat form's direct kernel: fp8 rows stay in shared memory as they are in the cache,
// codes become operands of products in registers.
#pragma once

#include <type_traits>

#include "mla/cuda/flat_decode/shape.cuh"

namespace tokamak::mla::cuda::flat_decode::direct {

inline constexpr int kDirectWarps = 16;  ///< that score, weigh and multiply
inline constexpr int kHelperWarps = 4;   ///< that bring rows, and settle what splits are multiplied by
inline constexpr int kMainThreads = 32 * kDirectWarps;
inline constexpr int kHelperThreads = 32 * kHelperWarps;
inline constexpr int kDirectThreads = kMainThreads + kHelperThreads;

/// Named barriers. Roles come to the first one from different places.
enum : int { kMainBarrier = 1, kWeighedBarrier = 2, kRowsBarrier = 3 /* to 6 */, kStartBarrier = 7 };

/// A row in shared memory: its codes; apart from them the tail, scales and 64 rotary values. Pitches are odd numbers
/// of 16 bytes. Rows of 512 have seven powers of two as scales, and their rotary values are values too.
template <int Dim>
struct DirectRow {
    static constexpr bool kRotaryValues = Dim == 512;
    static constexpr int kCodes = Dim == 576 ? 512 : 448;
    static constexpr int kCodePitch = kCodes + 16;
    static constexpr int kVersions = Dim == 576 ? 4 : 8;  ///< of weights: one for each scale, and for rotary values
    static constexpr int kQueryPitch = 2 * Dim + 16;      ///< of a head
};
inline constexpr int kTailPitch = 144;
inline constexpr int kRotaryInTail = 16;

/// Rows, of a share at most, arrive in turns of 32, eight for each four warps.
template <int Dim, int Rows, int Heads>
struct Layout {
    using Row = DirectRow<Dim>;
    static constexpr int kTurns = Rows / 32;
    static constexpr int kOwn = Rows / 128;  ///< turns of which a warp weighs its eight rows
    /// 256 rows leave no room: parts land where the queries were, weights are where the tails were.
    static constexpr bool kTight = Rows > 128;
    static constexpr int kPart = kPartBytes<Heads>;
    /// Of eight rows, of which a warp has scored a quarter of the dimensions; for 24 heads, place_of apart.
    static constexpr int kShareBytes = Heads == 16 ? 512 : 832;
    static constexpr int kPartialBytes = Heads == 16 ? 3 * kShareBytes : 4 * kShareBytes;
    static constexpr int kWeightPitch = Rows * Heads * 2;  ///< of a version
    static constexpr int kWeightBytes = Row::kVersions * kWeightPitch;
    static constexpr int kPartials = kDirectWarps * kPartialBytes;
    static constexpr std::uint32_t kCodes = 0;
    static constexpr std::uint32_t kTails = kCodes + Rows * Row::kCodePitch;
    static constexpr std::uint32_t kScores = kTails + Rows * kTailPitch;
    static constexpr std::uint32_t kWeights = kTight ? kTails : kScores;
    static constexpr std::uint32_t kQueries = kScores + (kTight || kPartials > kWeightBytes ? kPartials : kWeightBytes);
    static constexpr std::uint32_t kStaged = kTight ? kScores : kQueries;  ///< parts to be sent
    static constexpr std::uint32_t kQueriesEnd = kQueries + Heads * Row::kQueryPitch;
    static constexpr std::uint32_t kLanding = kTight ? kQueries : kQueriesEnd;
    static constexpr std::uint32_t kControl = kTight ? kQueriesEnd : kLanding + kMostLanding * kPart;
    static_assert(!kTight || (kWeightBytes <= Rows * kTailPitch && kLanding + kMostLanding * kPart <= kControl));
    static_assert(kParts * kPart <= Heads * Row::kQueryPitch && kParts * kPart <= kPartials);
};

/// Of each 16 rows, the one that column g of the first product has; the second product's is the next one. Eight lanes
/// that read 16 bytes each of two such rows, or 16 lanes 8 bytes of four, touch every bank once.
[[nodiscard]] __device__ constexpr int row_of_column(int g) { return g % 2 == 0 ? g : 8 + (g + 3) % 8; }

template <int Dim, int Rows, int Heads>
struct DirectControl {
    /// Of a row's scales to the power of two of the largest; as f16 if they are powers of two.
    using Ratios = std::conditional_t<Dim == 576, float4, uint4>;
    std::uint64_t told;                                       ///< sums of the other splits
    std::uint64_t landed;                                     ///< output parts of the other splits
    std::uint64_t rows[4][Layout<Dim, Rows, Heads>::kTurns];  ///< of four warps: an arrival of each lane that copies
    std::uint64_t described;                                  ///< rows, below: an arrival per helping warp
    std::uint64_t settled;                                    ///< factors: an arrival per helping warp
    alignas(16) Ratios ratio[Rows];
    float2 power[Rows];                              ///< x: exponent of that, -infinity if masked; y: its inverse
    alignas(16) float maximum[Heads][kDirectWarps];  ///< of the rows of each warp
    alignas(16) float sum[Heads][kDirectWarps + 4];
    alignas(16) float factor[Heads][kMostSplits];  ///< what the parts of each split are multiplied by
    float reference[Heads];
    float top[Heads];    ///< largest scores, if asked for
    float scale[Heads];  ///< of scores, as exponents of two
    alignas(16) float4 sums[kMostSplits][Heads];
};

template <int Dim, int Rows, int Heads>
inline constexpr int kDirectBytes = Layout<Dim, Rows, Heads>::kControl + sizeof(DirectControl<Dim, Rows, Heads>);

/// Codes 0 and 1 of four as f16, and codes 2 and 3: without a shift between.
__device__ __forceinline__ std::uint32_t low_codes(std::uint32_t four) {
    std::uint32_t halves;
    asm("{\n .reg .b16 low, high;\n mov.b32 {low, high}, %1;\n cvt.rn.f16x2.e4m3x2 %0, low;\n}"
        : "=r"(halves)
        : "r"(four));
    return halves;
}
__device__ __forceinline__ std::uint32_t high_codes(std::uint32_t four) {
    std::uint32_t halves;
    asm("{\n .reg .b16 low, high;\n mov.b32 {low, high}, %1;\n cvt.rn.f16x2.e4m3x2 %0, high;\n}"
        : "=r"(halves)
        : "r"(four));
    return halves;
}

__device__ __forceinline__ float load_float(std::uint32_t at) {
    float v;
    asm volatile("ld.shared.f32 %0, [%1];" : "=f"(v) : "r"(at) : "memory");
    return v;
}
__device__ __forceinline__ void store_shared_8(std::uint32_t at, std::uint32_t low, std::uint32_t high) {
    asm volatile("st.shared.v2.u32 [%0], {%1, %2};" ::"r"(at), "r"(low), "r"(high) : "memory");
}
__device__ __forceinline__ void store_shared_4(std::uint32_t at, std::uint32_t v) {
    asm volatile("st.shared.u32 [%0], %1;" ::"r"(at), "r"(v) : "memory");
}
__device__ __forceinline__ std::uint32_t load_shared_4(std::uint32_t at) {
    std::uint32_t v;
    asm volatile("ld.shared.u32 %0, [%1];" : "=r"(v) : "r"(at) : "memory");
    return v;
}
__device__ __forceinline__ std::uint32_t load_shared_2(std::uint32_t at) {
    std::uint16_t v;
    asm volatile("ld.shared.u16 %0, [%1];" : "=h"(v) : "r"(at) : "memory");
    return v;
}
__device__ __forceinline__ float4 load_float4(std::uint32_t at) {
    const uint4 v = load_shared_16(at);
    return {__uint_as_float(v.x), __uint_as_float(v.y), __uint_as_float(v.z), __uint_as_float(v.w)};
}

}  // namespace tokamak::mla::cuda::flat_decode::direct
