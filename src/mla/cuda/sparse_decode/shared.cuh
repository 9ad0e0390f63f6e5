// SPDX-License-Identifier: Apache-2.0
// The small shared-memory structures through which the roles of a block talk, and how tiles are laid out.
#pragma once

#include "cuda/ptx/barrier.cuh"
#include "cuda/ptx/gather.cuh"
#include "mla/cuda/sparse_decode/params.h"

namespace tokamak::mla::cuda::sparse_decode {

namespace ptx = tokamak::cuda::ptx;

inline constexpr float kNothing = -__builtin_huge_valf();

/// Named barriers.
enum : int { kScoreBarrier = 1, kMathBarrier = 2, kAccumulateBarrier = 3, kTileBarrier = 4 /* and 5 */ };

/// Blocks that producers may have looked at before the first of them is scored: raw ring and slab ring together hold
/// fewer.
inline constexpr int kMaskDepth = 8;

template <int N>
struct Control {
    std::uint64_t full[kMaxSlots];      ///< slab written: one arrival per producer warp, or thread if the rows are bf16
    std::uint64_t empty[kMaxSlots];     ///< slab no longer read: one arrival per warp of a warpgroup
    std::uint64_t weights_full[2];      ///< one arrival per scoring warp
    std::uint64_t weights_empty[2];     ///< one arrival per accumulating warp
    std::uint64_t landed;               ///< partial outputs of the other splits
    std::uint8_t valid[kMaskDepth][8];  ///< bit r of byte b: row 8 b + r takes part
    float correction[2][N];             ///< factor of older sums, per weights buffer
    int corrected[2];                   ///< whether any of them is not 1
    float partial[4][N];                ///< per warp, for reductions over the rows of a block
    float limit[N];                     ///< largest exponent that the reference allows
    float reference[N];                 ///< exponent that weights are relative to
    float factor[N];                    ///< of this split's sums; 0: head is empty
};

/// Position in the ring of slabs.
struct Slot {
    int index = 0;
    std::uint32_t phase = 0;
    __device__ __forceinline__ void advance(int slots) {
        if (++index == slots) {
            index = 0;
            phase ^= 1U;
        }
    }
};

/// Offset of 16-byte chunk `chunk` of row `row` in a tile with rows of 128 bytes under the 128-byte swizzle.
__device__ __forceinline__ std::uint32_t swizzled(int row, int chunk) {
    return static_cast<std::uint32_t>(row * 128 + ((chunk ^ (row & 7)) << 4));
}

__device__ __forceinline__ void store_shared(std::uint32_t address, uint4 value) {
    asm volatile("st.shared.v4.u32 [%0], {%1, %2, %3, %4};" ::"r"(address), "r"(value.x), "r"(value.y), "r"(value.z),
                 "r"(value.w)
                 : "memory");
}
__device__ __forceinline__ uint4 load_shared_16(std::uint32_t address) {
    uint4 v;
    asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "r"(address)
                 : "memory");
    return v;
}
__device__ __forceinline__ uint2 load_shared_8(std::uint32_t address) {
    uint2 v;
    asm volatile("ld.shared.v2.u32 {%0, %1}, [%2];" : "=r"(v.x), "=r"(v.y) : "r"(address) : "memory");
    return v;
}

/// bf16 pair; `low` goes to the lower half.
__device__ __forceinline__ std::uint32_t pack_bf16(float low, float high) {
    std::uint32_t pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}
__device__ __forceinline__ std::uint32_t pack_f16(float low, float high) {
    std::uint32_t pair;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}

/// 2^x with x = -infinity giving 0.
__device__ __forceinline__ float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
__device__ __forceinline__ float max_or_nan(float a, float b) {
    float y;
    asm("max.NaN.f32 %0, %1, %2;" : "=f"(y) : "f"(a), "f"(b));
    return y;
}

/// Stores the 64 x N fragment of a warpgroup's matrix transposed, as rows of 64 16-bit elements under the swizzle:
/// element (row, column) goes to row `column`. pairs[2 g + h]: columns 8 g + ..., rows +8 h.
template <int N>
__device__ __forceinline__ void store_transposed(std::uint32_t tile, const std::uint32_t (&pairs)[N / 4], int warp,
                                                 int lane) {
    const int row = lane & 7;
    if constexpr (N == 8) {
        ptx::store_matrix_transposed_x2(tile + swizzled(row, 2 * warp + ((lane >> 3) & 1)), pairs);
    } else {
#pragma unroll
        for (int g = 0; g < N / 8; g += 2) {
            const std::uint32_t four[4] = {pairs[2 * g], pairs[2 * g + 1], pairs[2 * g + 2], pairs[2 * g + 3]};
            const int column = (g + (lane >> 4)) * 8 + row;
            ptx::store_matrix_transposed_x4(tile + swizzled(column, 2 * warp + ((lane >> 3) & 1)), four);
        }
    }
}

}  // namespace tokamak::mla::cuda::sparse_decode
