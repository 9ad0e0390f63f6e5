// SPDX-License-Identifier: Apache-2.0
// The small shared-memory structures through which the roles of a block talk, and how tiles are laid out.
#pragma once

#include "cuda/ptx/barrier.cuh"
#include "cuda/ptx/gather.cuh"
#include "mla/cuda/sparse_decode/params.h"

namespace tokamak::mla::cuda::sparse_decode {

namespace ptx = tokamak::cuda::ptx;

inline constexpr float kInfinity = __builtin_huge_valf();

/// Named barriers.
enum : int {
    kScoreBarrier = 1,
    kMathBarrier = 2,
    kAccumulateBarrier = 3,
    kTileBarrier = 4 /* and 5 */,
    kProducerBarrier = 6,
    kStartBarrier = 7
};

/// Blocks whose exponents are kept: the ring never holds as many.
inline constexpr int kNoteDepth = 4;

/// Blocks of softmax weights on their way to the accumulators; 64 heads need the memory for the ring.
template <int N>
inline constexpr int kWeightBuffers = N == 64 ? 1 : 2;

/// "No reference yet": lower than any score, but finite, so that masked scores stay below it without special care.
inline constexpr float kNoReference = -1e30F;

/// A head's reference lags behind its maximum by no more: weights stay below two to this power.
inline constexpr int kPatienceBits = 8;

/// A row's values are kept divided by a power of two, 2^(exponent - 127); 0 stands for a masked row.
inline constexpr int kUnitExponent = 127;
inline constexpr int kMaskedRow = 0;

template <int N, int WeightBuffers = kWeightBuffers<N>>
struct Control {
    std::uint64_t full[kMaxStages];         ///< stage written: an arrival per producer warp, or thread if rows are bf16
    std::uint64_t empty[kMaxStages];        ///< stage no longer read: an arrival per accumulating warp
    std::uint64_t first_empty[kMaxStages];  ///< its first slab, if let go apart: an arrival per warp that reads it last
    std::uint64_t weights_full[WeightBuffers];        ///< an arrival per scoring warp
    std::uint64_t weights_empty[WeightBuffers];       ///< an arrival per accumulating warp
    std::uint64_t told;                               ///< sums of the other splits
    std::uint64_t landed;                             ///< partial outputs of the other splits
    alignas(16) int exponent[kNoteDepth][kRowBlock];  ///< of the rows of a block
    alignas(16) float correction[WeightBuffers][N];   ///< factor of older sums
    alignas(16) float partial[4][N];                  ///< per warp, for reductions over the rows of a block
    alignas(16) float reference[N];                   ///< exponent that weights are relative to; 0: none yet
    union {
        alignas(16) float factor[N];  ///< of the sums; 0: head is empty
        alignas(16) float moved[N];   ///< what references have moved by in a block; done with before factors are known
    };
    int odd[kNoteDepth];           ///< stages of a block come with their rounding errors
    int corrected[WeightBuffers];  ///< whether any correction is not 1
    unsigned query_top;            ///< largest magnitude of a query element, as bf16
};

static_assert(sizeof(Control<64>) <= 3072, "64 heads and bf16 rows of 576 would lose one of six stages");

/// All roles, when the barriers are made. (A barrier without a count must be one instruction for the whole block.)
template <int N>
__device__ __forceinline__ void start_together() {
    ptx::named_barrier(kStartBarrier, kThreads<N>);
}

/// Position in the ring of stages.
struct Stage {
    int index = 0;
    std::uint32_t phase = 0;
    __device__ __forceinline__ void advance(int stages) {
        if (++index == stages) {
            index = 0;
            phase ^= 1U;
        }
    }
};

/// Dimensions [64 d, 64 d + 64) are in the slab at this position of a block.
template <int Dim>
__device__ __forceinline__ constexpr int slab_dims(int position) {
    return position == 0 ? Slabs<Dim>::kCount - 1 : position - 1;
}

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

template <bool Half>
__device__ __forceinline__ std::uint32_t pack_16bit(float low, float high) {
    return Half ? pack_f16(low, high) : pack_bf16(low, high);
}

/// 2^(exponent - 127) for exponents of normal numbers.
__device__ __forceinline__ float power_of(int exponent) { return __int_as_float(exponent << 23); }

/// Two bf16 values times a power of two, in f16.
__device__ __forceinline__ std::uint32_t scale_bf16(std::uint32_t two, float factor) {
    return pack_f16(__uint_as_float(two << 16) * factor, __uint_as_float(two & 0xFFFF0000U) * factor);
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

/// Stores a warp's 16 x N fragment of a matrix transposed, by 8x8 matrices of 16-bit elements. pairs[2 g + h]: columns
/// 8 g + ..., rows +8 h. at(column, h): where the eight rows of half h of a column go.
template <int N, typename At>
__device__ __forceinline__ void store_fragment_transposed(const std::uint32_t (&pairs)[N / 4], int lane, const At& at) {
    const int row = lane & 7;
#pragma unroll
    for (int g = 0; g + 1 < N / 8; g += 2) {
        const std::uint32_t four[4] = {pairs[2 * g], pairs[2 * g + 1], pairs[2 * g + 2], pairs[2 * g + 3]};
        ptx::store_matrix_transposed_x4(at((g + (lane >> 4)) * 8 + row, lane >> 3 & 1), four);
    }
    if constexpr (N / 8 % 2 != 0) {
        const std::uint32_t two[2] = {pairs[N / 4 - 2], pairs[N / 4 - 1]};
        ptx::store_matrix_transposed_x2(at(N - 8 + row, lane >> 3 & 1), two);
    }
}

/// Stores the 64 x N fragment of a warpgroup's matrix transposed, as rows of 64 16-bit elements under the swizzle:
/// element (row, column) goes to row `column`.
template <int N>
__device__ __forceinline__ void store_transposed(std::uint32_t tile, const std::uint32_t (&pairs)[N / 4], int warp,
                                                 int lane) {
    store_fragment_transposed<N>(pairs, lane,
                                 [&](int column, int half) { return tile + swizzled(column, 2 * warp + half); });
}

}  // namespace tokamak::mla::cuda::sparse_decode
