// SPDX-License-Identifier: Apache-2.0
// Sizes and shared memory of the flat form's direct kernel: rows of 576 in fp8 stay in shared memory as they are in the
// cache, codes become operands of products in registers. Two blocks fit on a multiprocessor.
#pragma once

#include "mla/cuda/flat_decode/shape.cuh"

namespace tokamak::mla::cuda::flat_decode::direct {

inline constexpr int kHeads = 16;
inline constexpr int kRows = 128;  ///< of a share at most
inline constexpr int kDirectWarps = 8;
inline constexpr int kDirectThreads = 32 * kDirectWarps;
inline constexpr int kDirectSplits = 16;
inline constexpr int kGroups = 4;  ///< of 128 dimensions that share a scale

/// A row in shared memory: 512 codes; apart from them the tail, four scales and 64 rotary values. Both pitches are 1
/// modulo 8 units of 16 bytes.
inline constexpr int kCodePitch = 528;
inline constexpr int kTailPitch = 144;
inline constexpr int kRotaryInTail = 16;

// In turn in one place: queries, partial scores, weights, parts to be sent.
inline constexpr std::uint32_t kCodes = 0;
inline constexpr std::uint32_t kTails = kCodes + kRows * kCodePitch;
inline constexpr std::uint32_t kLanding = kTails;  ///< of parts, when the weights are made
inline constexpr std::uint32_t kTurns = kTails + kRows * kTailPitch;
inline constexpr int kQueryPitch = 1168;    ///< of a head; an odd number of units
inline constexpr int kPartialBytes = 3072;  ///< of 16 rows: what three other warps scored
inline constexpr int kWeightPitch = 4608;   ///< of a group of dimensions: 16 rows are 512 bytes
inline constexpr int kPartPitch = 576;
inline constexpr std::uint32_t kTurnBytes = kDirectWarps * kPartialBytes;
inline constexpr std::uint32_t kControl = kTurns + kTurnBytes;
static_assert(kHeads * kQueryPitch <= kTurnBytes && kGroups * kWeightPitch <= kTurnBytes);
static_assert(kWeightPitch == 8 * kPartPitch, "two warps stage their parts where their weights were");
static_assert(kMostLanding * kPartBytes<kHeads> <= kRows * kTailPitch);

/// Small things lie in the 16 bytes between the codes of two rows.
[[nodiscard]] __device__ constexpr std::uint32_t gap(int row) { return kCodes + row * kCodePitch + 512; }
[[nodiscard]] __device__ constexpr std::uint32_t maximum_at(int head, int warp) {
    return gap(2 * head + warp / 4) + warp % 4 * 4;
}
[[nodiscard]] __device__ constexpr std::uint32_t sum_at(int head, int warp) {
    return gap(32 + 2 * head + warp / 4) + warp % 4 * 4;
}
/// A byte: whether the row takes part.
[[nodiscard]] __device__ constexpr std::uint32_t valid_at(int row) { return gap(64 + row / 16) + row % 16; }

/// Of each 16 rows, the one that column g of the first product has; the second product's is the next one. Eight lanes
/// that read 16 bytes each of two such rows, or 16 lanes 8 bytes of four, touch every bank once.
[[nodiscard]] __device__ constexpr int row_of_column(int g) { return g % 2 == 0 ? g : 8 + (g + 3) % 8; }

struct DirectControl {
    std::uint64_t told;    ///< sums of the other splits
    std::uint64_t landed;  ///< output parts of the other splits
    float reference[kHeads];
    float top[kHeads];    ///< largest scores, if asked for
    float scale[kHeads];  ///< of scores, as exponents of two
    alignas(16) float4 sums[kMostSplits][kHeads];
};

inline constexpr int kDirectBytes = kControl + sizeof(DirectControl);
static_assert(2 * (kDirectBytes + 1024) <= 228 * 1024, "two blocks on a multiprocessor");

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
__device__ __forceinline__ unsigned load_two_bytes(std::uint32_t at) {
    std::uint16_t v;
    asm volatile("ld.shared.u16 %0, [%1];" : "=h"(v) : "r"(at) : "memory");
    return v;
}
__device__ __forceinline__ void store_float(std::uint32_t at, float v) {
    asm volatile("st.shared.f32 [%0], %1;" ::"r"(at), "f"(v) : "memory");
}
__device__ __forceinline__ void store_byte(std::uint32_t at, unsigned v) {
    asm volatile("st.shared.u8 [%0], %1;" ::"r"(at), "r"(v) : "memory");
}
__device__ __forceinline__ float4 load_float4(std::uint32_t at) {
    const uint4 v = load_shared_16(at);
    return {__uint_as_float(v.x), __uint_as_float(v.y), __uint_as_float(v.z), __uint_as_float(v.w)};
}

}  // namespace tokamak::mla::cuda::flat_decode::direct
