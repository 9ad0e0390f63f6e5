// SPDX-License-Identifier: Apache-2.0
// Queries as two e4m3 numbers each, q = high + low: what e4m3 holds of it and of the rest, divided by a power of two of
// the head. (bf16 has 8 significant bits, e4m3 4. The head's largest element is below 2^8; what is below 2^-10 of that
// is lost.) K-major slabs under the swizzle: the rotary ones first, which stay as they are but for the power, then for
// every 128 dimensions one of high numbers and one of low.
#pragma once

#include <cuda_bf16.h>

#include "mla/cuda/sparse_decode/queries.cuh"
#include "mla/cuda/wide_decode/shape.cuh"

namespace tokamak::mla::cuda::wide_decode {

/// Slabs of queries, by the slab of rows that they are multiplied with.
inline constexpr int kRotaryQueries = 0;
__device__ __forceinline__ constexpr int high_queries(int slab) { return 2 * slab + 1; }
__device__ __forceinline__ constexpr int low_queries(int slab) { return 2 * slab + 2; }

/// Two f16 numbers to two e4m3 numbers, the first in the lower byte.
__device__ __forceinline__ std::uint32_t codes_of(std::uint32_t two) {
    std::uint16_t codes;
    asm("cvt.rn.satfinite.e4m3x2.f16x2 %0, %1;" : "=h"(codes) : "r"(two));
    return codes;
}

/// Eight f16 numbers as high and low ones.
struct TwoParts {
    uint2 high, low;

    __device__ __forceinline__ explicit TwoParts(const uint4& v) {
        const std::uint32_t words[4] = {v.x, v.y, v.z, v.w};
        std::uint32_t codes[4];
        std::uint32_t rests[4];
#pragma unroll
        for (int w = 0; w < 4; ++w) {
            codes[w] = codes_of(words[w]);
            rests[w] = codes_of(bits_of(__hsub2(*reinterpret_cast<const __half2*>(&words[w]), halves_of(codes[w]))));
        }
        high = {codes[0] | codes[1] << 16, codes[2] | codes[3] << 16};
        low = {rests[0] | rests[1] << 16, rests[2] | rests[3] << 16};
    }
};

/// The queries of four heads, eight lanes each: copied as they are, then converted where they lie. A warp has whole
/// heads, so that nobody waits for another warp's largest element.
template <int Dim>
class FourQueries {
  public:
    static constexpr int kGroups = kHeads / 4;

    /// Of heads 0, 1, 4, 5 or 2, 3, 6, 7 of eight: stores of half a warp then touch every bank once.
    __device__ __forceinline__ FourQueries(std::uint32_t base, int group, int lane)
        : head_(group / 2 * 8 + group % 2 * 2 + lane / 8 % 2 * 4 + lane / 16),
          chunk_(lane % 8),
          base_(base),
          own_(base + swizzled(head_, lane % 8)) {}

    __device__ __forceinline__ void copy(const Params& params, int token, int first_head) const {
        const bool real = first_head + head_ < params.heads;
        const auto* const from = static_cast<const std::uint16_t*>(params.q) + token * params.q_token_stride +
                                 (real ? first_head + head_ : 0) * params.q_head_stride + chunk_ * 8;
        if (params.q_vectors) {
#pragma unroll
            for (int s = 0; s < kSlabs; ++s)
                ptx::copy_16(own_ + s * kSlabBytes, from + slab_dims<Dim>(s) * kSlabDims, real);
        } else {
#pragma unroll 1
            for (int s = 0; s < kSlabs; ++s)
                store_shared(own_ + s * kSlabBytes,
                             real ? load_eight(from + slab_dims<Dim>(s) * kSlabDims) : uint4{0, 0, 0, 0});
        }
    }

    /// Returns the power (biased as in f32) that the scores of this lane's head must be multiplied by. A head with an
    /// element that is not finite becomes NaN as a whole, as its scores would be.
    __device__ __forceinline__ int convert() const {
        uint4 v[kSlabs];
#pragma unroll
        for (int s = 0; s < kSlabs; ++s) v[s] = load_shared_16(own_ + s * kSlabBytes);
        const unsigned top = largest(v);
        const int power = max(static_cast<int>(top >> 7), 8) - 7;
        const std::uint32_t factor =
            top >= 0x7F80U ? 0x7FFFU : static_cast<std::uint32_t>(2 * kUnitExponent - power) << 7;
        const std::uint32_t factors = factor | factor << 16;
        v[kRotaryQueries] = times(v[kRotaryQueries], factors);
        store_shared(own_ + kRotaryQueries * kSlabBytes, Dim == 512 ? as_f16(v[kRotaryQueries]) : v[kRotaryQueries]);
        const std::uint32_t even = base_ + swizzled(head_, chunk_ / 2) + chunk_ % 2 * 8;
        const std::uint32_t odd = base_ + swizzled(head_, chunk_ / 2 + 4) + chunk_ % 2 * 8;
#pragma unroll
        for (int s = 1; s < kSlabs; ++s)
            store_parts((s % 2 != 0 ? even : odd) + high_queries((s - 1) / 2) * kSlabBytes, v[s], factors);
        return power;
    }

    [[nodiscard]] __device__ __forceinline__ int head() const { return head_; }

  private:
    static constexpr int kSlabs = Slabs<Dim>::kCount;

    /// Magnitude as bf16; all lanes of the head have read what they convert.
    [[nodiscard]] __device__ __forceinline__ static unsigned largest(const uint4 (&all)[kSlabs]) {
        unsigned both = 0;
#pragma unroll
        for (const uint4& v : all)
            both = __vmaxu2(both, __vmaxu2(__vmaxu2(v.x & 0x7FFF7FFFU, v.y & 0x7FFF7FFFU),
                                           __vmaxu2(v.z & 0x7FFF7FFFU, v.w & 0x7FFF7FFFU)));
        unsigned top = max(both & 0xFFFFU, both >> 16);
#pragma unroll
        for (int step = 1; step < 8; step *= 2) top = max(top, __shfl_xor_sync(~0U, top, step));
        return top;
    }

    __device__ __forceinline__ static uint4 times(const uint4& v, std::uint32_t factors) {
        const auto two = [factors](std::uint32_t w) {
            const __nv_bfloat162 product = __hmul2(*reinterpret_cast<const __nv_bfloat162*>(&w),
                                                   *reinterpret_cast<const __nv_bfloat162*>(&factors));
            return *reinterpret_cast<const std::uint32_t*>(&product);
        };
        return {two(v.x), two(v.y), two(v.z), two(v.w)};
    }
    __device__ __forceinline__ static uint4 as_f16(const uint4& v) {
        return {scale_bf16(v.x, 1.0F), scale_bf16(v.y, 1.0F), scale_bf16(v.z, 1.0F), scale_bf16(v.w, 1.0F)};
    }

    /// Eight queries: the high numbers to `at`, the low ones a slab behind.
    __device__ __forceinline__ static void store_parts(std::uint32_t at, const uint4& v, std::uint32_t factors) {
        const TwoParts parts(as_f16(times(v, factors)));
        store_shared_8(at, parts.high);
        store_shared_8(at + kSlabBytes, parts.low);
    }
    __device__ __forceinline__ static void store_shared_8(std::uint32_t at, uint2 v) {
        asm volatile("st.shared.v2.u32 [%0], {%1, %2};" ::"r"(at), "r"(v.x), "r"(v.y) : "memory");
    }

    int head_, chunk_;
    std::uint32_t base_, own_;
};

/// By the accumulating warps, which have nothing to add yet: asks for the queries.
template <int Dim>
__device__ __forceinline__ void copy_queries(const Params& params, std::uint32_t base, int token, int first_head,
                                             int warp, int lane) {
#pragma unroll 1
    for (int group = warp - 4; group < FourQueries<Dim>::kGroups; group += 8)
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
    for (int group = warp - 4; group < FourQueries<Dim>::kGroups; group += 8) {
        const FourQueries<Dim> queries(base, group, lane);
        const int power = queries.convert();
        if (lane % 8 == 0) control.head_factor[queries.head()] = params.scale_log2 * power_of(power);
    }
    ptx::fence_shared_async();
    ptx::named_barrier(kMathBarrier, kMathThreads);
}

}  // namespace tokamak::mla::cuda::wide_decode
