// SPDX-License-Identifier: Apache-2.0
// Sizes and shared memory of the flat form's direct kernel: rows of 576 in fp8 stay in shared memory as they are in the
// cache, codes become operands of products in registers. Two blocks fit on a multiprocessor.
#pragma once

#include "mla/cuda/flat_decode/shape.cuh"

namespace tokamak::mla::cuda::flat_decode::direct {

inline constexpr int kRows = 128;  ///< of a share at most
inline constexpr int kDirectWarps = 8;
inline constexpr int kDirectThreads = 32 * kDirectWarps;
inline constexpr int kGroups = 4;  ///< of 128 dimensions that share a scale

/// A row in shared memory: 512 codes; apart from them the tail, four scales and 64 rotary values. Both pitches are 1
/// modulo 8 units of 16 bytes.
inline constexpr int kCodePitch = 528;
inline constexpr int kTailPitch = 144;
inline constexpr int kRotaryInTail = 16;

inline constexpr int kQueryPitch = 1168;   ///< of a head; an odd number of units
inline constexpr int kWeightPitch = 4608;  ///< of 16 heads and a group of dimensions: 16 rows are 512 bytes

/// For 16 * M heads. In turn in one place: queries, partial scores, weights, parts to be sent.
template <int M>
struct Layout {
    static constexpr int kHeads = 16 * M;
    static constexpr int kPart = kPartBytes<kHeads>;
    static constexpr int kPartialBytes = 3072 * M;      ///< of 16 rows: what three other warps scored
    static constexpr int kPairPitch = 2 * kPart + 64;   ///< of two parts to be sent
    static constexpr std::uint32_t kCodes = 0;
    static constexpr std::uint32_t kTails = kCodes + kRows * kCodePitch;
    static constexpr std::uint32_t kTurns = kTails + kRows * kTailPitch;
    static constexpr std::uint32_t kTurnBytes = kDirectWarps * kPartialBytes;
    /// Of parts; where the tails were, when the weights are made, if they fit.
    static constexpr bool kOverTails = kMostLanding * kPart <= kRows * kTailPitch;
    static constexpr std::uint32_t kLanding = kOverTails ? kTails : kTurns + kTurnBytes;
    static constexpr std::uint32_t kControl = kTurns + kTurnBytes + (kOverTails ? 0 : kMostLanding * kPart);
    static_assert(kHeads * kQueryPitch <= kTurnBytes && kGroups * M * kWeightPitch <= kTurnBytes);
    static_assert(M * kWeightPitch >= 4 * kPairPitch, "two warps stage their parts where their weights were");
};

/// Numbers of heads and warps lie in the 16 bytes between the codes of two rows.
[[nodiscard]] __device__ constexpr std::uint32_t maximum_at(int head, int warp) {
    return (2 * head + warp / 4) * kCodePitch + 512 + warp % 4 * 4;
}
[[nodiscard]] __device__ constexpr std::uint32_t sum_at(int head, int warp) { return maximum_at(32 + head, warp); }

/// Of each 16 rows, the one that column g of the first product has; the second product's is the next one. Eight lanes
/// that read 16 bytes each of two such rows, or 16 lanes 8 bytes of four, touch every bank once.
[[nodiscard]] __device__ constexpr int row_of_column(int g) { return g % 2 == 0 ? g : 8 + (g + 3) % 8; }

template <int M>
struct DirectControl {
    std::uint64_t told;    ///< sums of the other splits
    std::uint64_t landed;  ///< output parts of the other splits
    alignas(16) std::uint8_t valid[kRows];
    float reference[16 * M];
    float top[16 * M];    ///< largest scores, if asked for
    float scale[16 * M];  ///< of scores, as exponents of two
    alignas(16) float4 sums[kMostSplits][16 * M];
};

template <int M>
inline constexpr int kDirectBytes = Layout<M>::kControl + sizeof(DirectControl<M>);
static_assert(2 * (kDirectBytes<1> + 1024) <= 228 * 1024, "two blocks on a multiprocessor");

/// Codes 0 and 1 of four as f16, and codes 2 and 3: without a shift between.
__device__ __forceinline__ std::uint32_t low_codes(std::uint32_t four) {
    std::uint32_t halves;
    asm("{\n .reg .b16 low, high;\n mov.b32 {low, high}, %1;\n cvt.rn.f16x2.e4m3x2 %0, low;\n}" : "=r"(halves) : "r"(four));
    return halves;
}
__device__ __forceinline__ std::uint32_t high_codes(std::uint32_t four) {
    std::uint32_t halves;
    asm("{\n .reg .b16 low, high;\n mov.b32 {low, high}, %1;\n cvt.rn.f16x2.e4m3x2 %0, high;\n}" : "=r"(halves) : "r"(four));
    return halves;
}

/// Arrives for those who wait in ptx::named_barrier, and goes on.
__device__ __forceinline__ void named_barrier_arrive(int number, int threads) {
    asm volatile("barrier.cta.arrive %0, %1;" ::"r"(number), "r"(threads) : "memory");
}

__device__ __forceinline__ float load_float(std::uint32_t at) {
    float v;
    asm volatile("ld.shared.f32 %0, [%1];" : "=f"(v) : "r"(at) : "memory");
    return v;
}
__device__ __forceinline__ void store_float(std::uint32_t at, float v) {
    asm volatile("st.shared.f32 [%0], %1;" ::"r"(at), "f"(v) : "memory");
}
__device__ __forceinline__ float4 load_float4(std::uint32_t at) {
    const uint4 v = load_shared_16(at);
    return {__uint_as_float(v.x), __uint_as_float(v.y), __uint_as_float(v.z), __uint_as_float(v.w)};
}

}  // namespace tokamak::mla::cuda::flat_decode::direct
