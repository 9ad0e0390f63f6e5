// SPDX-License-Identifier: Apache-2.0
// Queries as K-major slabs of 64 dimensions under the swizzle, the rotary ones first. A head's queries are divided by
// a power of two of its own, which leaves its largest element just below 2^8: the rotary ones become f16, the others
// two e4m3 numbers each, q = hi + lo. Four bits and four bits are the eight of bf16; what lo loses is below 2^-10.
#pragma once

#include <cuda_bf16.h>

#include "mla/cuda/sparse_decode/queries.cuh"
#include "mla/cuda/wide_decode/shape.cuh"

namespace tokamak::mla::cuda::wide_decode {

/// Slab of the rotary dimensions, and that of codes [64 j, 64 j + 64).
inline constexpr int kRotaryQueries = 0;
__device__ __forceinline__ constexpr int query_slab(int j) { return j + 1; }

/// Two f16 numbers to two e4m3 numbers, the first in the lower byte, and back.
__device__ __forceinline__ std::uint32_t codes_of(std::uint32_t two) {
    std::uint16_t codes;
    asm("cvt.rn.satfinite.e4m3x2.f16x2 %0, %1;" : "=h"(codes) : "r"(two));
    return codes;
}

/// Four numbers as hi and lo, a byte each.
struct TwoParts {
    std::uint32_t hi, lo;

    __device__ __forceinline__ TwoParts(std::uint32_t first, std::uint32_t second) {
        const std::uint32_t hi_first = codes_of(first);
        const std::uint32_t hi_second = codes_of(second);
        hi = hi_first | hi_second << 16;
        lo = codes_of(rest(first, hi_first)) | codes_of(rest(second, hi_second)) << 16;
    }

  private:
    __device__ __forceinline__ static std::uint32_t rest(std::uint32_t two, std::uint32_t hi) {
        return bits_of(__hsub2(*reinterpret_cast<const __half2*>(&two), halves_of(hi)));
    }
};

/// The queries of four heads, eight lanes each: copied as they are, then converted where they lie, in short loops. (What
/// this costs is being fetched: unrolled, 64 heads took twice as long.) A warp has whole heads, so that nobody waits
/// for another warp's largest element.
template <int Dim>
class FourQueries {
  public:
    static constexpr int kGroups = kHeads / 4;

    /// Of heads 0, 1, 4, 5 or 2, 3, 6, 7 of eight: stores of the parts are then free of bank conflicts.
    __device__ __forceinline__ FourQueries(std::uint32_t base, int group, int lane)
        : head_(group / 2 * 8 + group % 2 * 2 + lane / 16 * 4 + lane / 8 % 2),
          chunk_(lane % 8),
          row_(base + head_ * 128),
          own_(base + swizzled(head_, lane % 8)) {}

    __device__ __forceinline__ void copy(const Params& params, int token, int first_head) const {
        const bool real = first_head + head_ < params.heads;
        const auto* const from = static_cast<const std::uint16_t*>(params.q) + token * params.q_token_stride +
                                 (real ? first_head + head_ : 0) * params.q_head_stride + chunk_ * 8;
        if (params.q_vectors) {
#pragma unroll
            for (int s = 0; s < kSlabs; ++s) ptx::copy_16(own_ + s * kSlab, from + slab_dims<Dim>(s) * kSlabDims, real);
        } else {
#pragma unroll 1
            for (int s = 0; s < kSlabs; ++s)
                store_shared(own_ + s * kSlab,
                             real ? load_eight(from + slab_dims<Dim>(s) * kSlabDims) : uint4{0, 0, 0, 0});
        }
    }

    /// Returns the power (biased as in f32) that the scores of this lane's head must be multiplied by. A head with an
    /// element that is not finite becomes NaN as a whole, as its scores would be.
    __device__ __forceinline__ int convert() const {
        const unsigned top = largest();
        const int power = max(static_cast<int>(top >> 7), 8) - 7;
        const std::uint32_t factor = top >= 0x7F80U ? 0x7FFFU : static_cast<std::uint32_t>(2 * kUnitExponent - power) << 7;
        const std::uint32_t factors = factor | factor << 16;
        uint4 v = load_shared_16(own_ + kRotaryQueries * kSlab);
        __syncwarp();
        store_rotary(scale(v, factors));
#pragma unroll 2
        for (int j = 0; j < kSlabs - 1; ++j) {
            const std::uint32_t slab = query_slab(j) * kSlab;
            v = scale(load_shared_16(own_ + slab), factors);
            __syncwarp();
            store_parts(row_ + slab, TwoParts(v.x, v.y), TwoParts(v.z, v.w));
        }
        return power;
    }

    [[nodiscard]] __device__ __forceinline__ int head() const { return head_; }

  private:
    static constexpr int kSlabs = Slabs<Dim>::kCount;
    static constexpr std::uint32_t kSlab = kHeads * 128;

    /// Magnitude as bf16.
    [[nodiscard]] __device__ __forceinline__ unsigned largest() const {
        unsigned both = 0;
#pragma unroll
        for (int s = 0; s < kSlabs; ++s) {
            const uint4 v = load_shared_16(own_ + s * kSlab);
            both = __vmaxu2(both, __vmaxu2(__vmaxu2(v.x & 0x7FFF7FFFU, v.y & 0x7FFF7FFFU),
                                           __vmaxu2(v.z & 0x7FFF7FFFU, v.w & 0x7FFF7FFFU)));
        }
        unsigned top = max(both & 0xFFFFU, both >> 16);
#pragma unroll
        for (int step = 1; step < 8; step *= 2) top = max(top, __shfl_xor_sync(~0U, top, step));
        return top;
    }

    /// Eight elements times a power of two, as f16.
    __device__ __forceinline__ static uint4 scale(const uint4& v, std::uint32_t factors) {
        const auto two = [factors](std::uint32_t w) {
            const __nv_bfloat162 product = __hmul2(*reinterpret_cast<const __nv_bfloat162*>(&w),
                                                   *reinterpret_cast<const __nv_bfloat162*>(&factors));
            const std::uint32_t bits = *reinterpret_cast<const std::uint32_t*>(&product);
            return pack_f16(__uint_as_float(bits << 16), __uint_as_float(bits & 0xFFFF0000U));
        };
        return {two(v.x), two(v.y), two(v.z), two(v.w)};
    }

    /// Of rotary values a lane c reads eight for two steps of 16 dimensions: 2 c and 2 c + 8 of one step after the
    /// other.
    __device__ __forceinline__ void store_rotary(const uint4& v) const {
        const std::uint32_t words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
        for (int w = 0; w < 4; ++w) store_word(row_, chunk_ / 4 * 4 + w, chunk_ % 4, words[w]);
    }

    /// Of codes a lane c reads 16 for two steps of 32 dimensions: 4 c .. 4 c + 3 and these + 16 of one step after the
    /// other. hi is in the first half of a head's 128 bytes, lo in the second.
    __device__ __forceinline__ void store_parts(std::uint32_t row, const TwoParts& first, const TwoParts& second) const {
        const int unit = chunk_ % 2 * 2;
        store_word(row, unit, chunk_ / 2, first.hi);
        store_word(row, unit + 1, chunk_ / 2, second.hi);
        store_word(row, unit + 4, chunk_ / 2, first.lo);
        store_word(row, unit + 5, chunk_ / 2, second.lo);
    }

    /// Word `word` of 16-byte unit `unit` of the head's 128 bytes that begin at `row`.
    __device__ __forceinline__ void store_word(std::uint32_t row, int unit, int word, std::uint32_t value) const {
        asm volatile("st.shared.u32 [%0], %1;" ::"r"(row + ((unit ^ (head_ & 7)) << 4) + word * 4), "r"(value)
                     : "memory");
    }

    int head_, chunk_;
    std::uint32_t row_, own_;
};

/// By all math warps: asks for the queries.
template <int Dim>
__device__ __forceinline__ void copy_queries(const Params& params, std::uint32_t base, int token, int first_head, int warp,
                                             int lane) {
#pragma unroll 1
    for (int group = warp; group < FourQueries<Dim>::kGroups; group += kMathThreads / 32)
        FourQueries<Dim>(base, group, lane).copy(params, token, first_head);
    ptx::copy_commit();
}

/// By the same: settles them, and what a head's scores must be multiplied by.
template <int Dim>
__device__ __forceinline__ void settle_queries(const Params& params, WideControl& control, std::uint32_t base, int warp,
                                               int lane) {
    ptx::copy_wait<0>();
    __syncwarp();
#pragma unroll 1
    for (int group = warp; group < FourQueries<Dim>::kGroups; group += kMathThreads / 32) {
        const FourQueries<Dim> queries(base, group, lane);
        const int power = queries.convert();
        if (lane % 8 == 0) control.query_factor[queries.head()] = params.scale_log2 * power_of(power);
    }
    ptx::fence_shared_async();
    ptx::named_barrier(kMathBarrier, kMathThreads);
}

}  // namespace tokamak::mla::cuda::wide_decode
