// SPDX-License-Identifier: Apache-2.0
// Sizes and shared memory of the flat form's direct kernel: rows of 576 in fp8 stay in shared memory as they are in the
// cache, codes become operands of products in registers.
#pragma once

#include "mla/cuda/flat_decode/shape.cuh"

namespace tokamak::mla::cuda::flat_decode::direct {

inline constexpr int kHeads = 16;
inline constexpr int kRows = 128;        ///< of a share at most
inline constexpr int kDirectWarps = 16;  ///< that score, weigh and multiply
inline constexpr int kHelperWarps = 4;   ///< that bring rows, and settle what splits are multiplied by
inline constexpr int kMainThreads = 32 * kDirectWarps;
inline constexpr int kHelperThreads = 32 * kHelperWarps;
inline constexpr int kDirectThreads = kMainThreads + kHelperThreads;
inline constexpr int kHalves = 2;  ///< of the rows, that arrive one after the other
inline constexpr int kGroups = 4;  ///< of 128 dimensions that share a scale

/// Named barriers.
enum : int { kMainBarrier = 1, kWeighedBarrier = 2, kRowsBarrier = 3 /* to 6 */ };

/// A row in shared memory: 512 codes; apart from them the tail, four scales and 64 rotary values. Both pitches are 1
/// modulo 8 units of 16 bytes.
inline constexpr int kCodePitch = 528;
inline constexpr int kTailPitch = 144;
inline constexpr int kRotaryInTail = 16;

inline constexpr int kQueryPitch = 1168;   ///< of a head; an odd number of units
inline constexpr int kWeightPitch = 4096;  ///< of 16 heads and a group of dimensions: 16 rows are 512 bytes

struct Layout {
    static constexpr int kPart = kPartBytes<kHeads>;
    static constexpr int kPartialBytes = 1536;  ///< of eight rows: what three other warps scored
    static constexpr std::uint32_t kCodes = 0;
    static constexpr std::uint32_t kTails = kCodes + kRows * kCodePitch;
    static constexpr std::uint32_t kTurns = kTails + kRows * kTailPitch;  ///< partial scores, then weights
    static constexpr std::uint32_t kQueries = kTurns + kDirectWarps * kPartialBytes;
    static constexpr std::uint32_t kStaged = kQueries;  ///< parts to be sent
    static constexpr std::uint32_t kLanding = kQueries + kHeads * kQueryPitch;
    static constexpr std::uint32_t kControl = kLanding + kMostLanding * kPart;
    static_assert(kGroups * kWeightPitch <= kDirectWarps * kPartialBytes);
    static_assert(kParts * kPart <= kHeads * kQueryPitch);
};

/// Of each 16 rows, the one that column g of the first product has; the second product's is the next one. Eight lanes
/// that read 16 bytes each of two such rows, or 16 lanes 8 bytes of four, touch every bank once.
[[nodiscard]] __device__ constexpr int row_of_column(int g) { return g % 2 == 0 ? g : 8 + (g + 3) % 8; }

struct DirectControl {
    std::uint64_t told;                               ///< sums of the other splits
    std::uint64_t landed;                             ///< output parts of the other splits
    std::uint64_t rows[kHalves];                      ///< an arrival per helping thread
    std::uint64_t described;                          ///< rows, below: an arrival per helping warp
    std::uint64_t settled;                            ///< factors: an arrival per helping warp
    alignas(16) float4 ratio[kRows];                  ///< of a row's scales to the power of two of the largest
    float2 power[kRows];                              ///< x: exponent of that, -infinity if masked; y: its inverse
    alignas(16) float maximum[kHeads][kDirectWarps];  ///< of the rows of each warp
    alignas(16) float sum[kHeads][kDirectWarps + 4];
    alignas(16) float factor[kHeads][kMostSplits];  ///< what the parts of each split are multiplied by
    float reference[kHeads];
    float top[kHeads];    ///< largest scores, if asked for
    float scale[kHeads];  ///< of scores, as exponents of two
    alignas(16) float4 sums[kMostSplits][kHeads];
};

inline constexpr int kDirectBytes = Layout::kControl + sizeof(DirectControl);
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
__device__ __forceinline__ std::uint32_t load_shared_4(std::uint32_t at) {
    std::uint32_t v;
    asm volatile("ld.shared.u32 %0, [%1];" : "=r"(v) : "r"(at) : "memory");
    return v;
}
__device__ __forceinline__ float4 load_float4(std::uint32_t at) {
    const uint4 v = load_shared_16(at);
    return {__uint_as_float(v.x), __uint_as_float(v.y), __uint_as_float(v.z), __uint_as_float(v.w)};
}

}  // namespace tokamak::mla::cuda::flat_decode::direct
