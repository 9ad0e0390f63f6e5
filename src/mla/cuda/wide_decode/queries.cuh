// SPDX-License-Identifier: Apache-2.0
// Queries as two e4m3 numbers each, q = high + low: what e4m3 holds of it and of the rest, divided by a power of two of
// the head. (bf16 has 8 significant bits, e4m3 4. The head's largest element is below 2^8; what is below 2^-10 of that
// is lost.) K-major slabs under the swizzle: the rotary ones first, which stay as they are but for the power, then for
// every 128 dimensions one of high numbers and one of low.
#pragma once

#include "mla/cuda/sparse_decode/queries.cuh"
#include "mla/cuda/wide_decode/shape.cuh"

namespace tokamak::mla::cuda::wide_decode {

/// Slabs of queries, by the slab of rows that they are multiplied with.
inline constexpr int kRotaryQueries = 0;
__device__ __forceinline__ constexpr int high_queries(int slab) { return 2 * slab + 1; }
__device__ __forceinline__ constexpr int low_queries(int slab) { return 2 * slab + 2; }

/// Exponent (of a normal number) of the largest element of a head, which becomes that of 2^7.
inline constexpr int kHeadExponent = kUnitExponent + 7;

__device__ __forceinline__ std::uint32_t two_e4m3(float a, float b) {
    std::uint16_t two;
    asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(two) : "f"(b), "f"(a));
    return two;
}
__device__ __forceinline__ void store_shared_8(std::uint32_t address, std::uint32_t first, std::uint32_t second) {
    asm volatile("st.shared.v2.u32 [%0], {%1, %2};" ::"r"(address), "r"(first), "r"(second) : "memory");
}

template <int Dim>
class WideQueries : public QueryLoader<Dim, kHeads, true> {
    using Base = QueryLoader<Dim, kHeads, true>;
    using Base::base_;
    using Base::chunk_;
    using Base::kAll;
    using Base::kAtOnce;
    using Base::piece_;

  public:
    using Base::Base;

    /// Largest magnitudes of the heads' finite elements. Eight lanes have 128 bytes of a head.
    __device__ __forceinline__ void note_tops(unsigned (&tops)[kHeads]) const {
#pragma unroll 1
        for (int piece = piece_; piece < kAll; piece += kAtOnce) {
            unsigned top = top_of(load_shared_16(this->place(piece)));
#pragma unroll
            for (int step = 1; step < 8; step *= 2) top = max(top, __shfl_xor_sync(~0U, top, step));
            if (chunk_ == 0) atomicMax(&tops[piece % kHeads], top);
        }
    }

    /// In place: eight lanes have the bytes of a head in both slabs.
    __device__ __forceinline__ void split(const unsigned (&tops)[kHeads]) const {
#pragma unroll 1
        for (int unit = piece_; unit < 5 * kHeads; unit += kAtOnce) {
            const int head = unit % kHeads;
            const float factor = power_of(kUnitExponent + kHeadExponent - exponent_of(tops[head]));
            const int slab = unit / kHeads - 1;
            if (slab < 0)
                scale_rotary(base_ + kRotaryQueries * kSlabBytes + swizzled(head, chunk_), factor);
            else
                split_codes(base_ + high_queries(slab) * kSlabBytes, head, factor, Dim == 576 || slab < kCodeSlabs - 1);
        }
    }

    /// Such that both powers, this one's and its inverse, are normal.
    [[nodiscard]] __device__ __forceinline__ static int exponent_of(unsigned top) {
        return max(8, static_cast<int>(top >> 7));
    }

  private:
    __device__ __forceinline__ static void scale_rotary(std::uint32_t at, float factor) {
        const uint4 v = load_shared_16(at);
        const auto scaled = [factor](std::uint32_t two) {
            if constexpr (Dim == 512) return scale_bf16(two, factor);
            return pack_bf16(__uint_as_float(two << 16) * factor, __uint_as_float(two & 0xFFFF0000U) * factor);
        };
        store_shared(at, {scaled(v.x), scaled(v.y), scaled(v.z), scaled(v.w)});
    }

    __device__ __forceinline__ void split_codes(std::uint32_t high_slab, int head, float factor, bool whole) const {
        const std::uint32_t at = high_slab + swizzled(head, chunk_);
        const uint4 first = load_shared_16(at);
        const uint4 second = whole ? load_shared_16(at + kSlabBytes) : uint4{0, 0, 0, 0};
        __syncwarp();
        split_eight(high_slab + swizzled(head, chunk_ / 2) + chunk_ % 2 * 8, first, factor);
        split_eight(high_slab + swizzled(head, 4 + chunk_ / 2) + chunk_ % 2 * 8, second, factor);
    }

    __device__ __forceinline__ static void split_eight(std::uint32_t at, const uint4& v, float factor) {
        const std::uint32_t words[4] = {v.x, v.y, v.z, v.w};
        std::uint32_t high[4];
        std::uint32_t low[4];
#pragma unroll
        for (int w = 0; w < 4; ++w) {
            const float a = not_infinite(__uint_as_float(words[w] << 16) * factor);
            const float b = not_infinite(__uint_as_float(words[w] & 0xFFFF0000U) * factor);
            high[w] = two_e4m3(a, b);
            const float2 held = __half22float2(halves_of(high[w]));
            low[w] = two_e4m3(a - held.x, b - held.y);
        }
        store_shared_8(at, high[0] | high[1] << 16, high[2] | high[3] << 16);
        store_shared_8(at + kSlabBytes, low[0] | low[1] << 16, low[2] | low[3] << 16);
    }
    /// NaN for an infinity, which e4m3 does not have.
    __device__ __forceinline__ static float not_infinite(float v) { return fmaf(v, 0.0F, v); }
};

/// By all math threads. (Not inlined: the code of both roles that call it is fetched once.)
template <int Dim>
__device__ __noinline__ void load_wide_queries(const Params& params, WideControl& control, std::uint32_t base,
                                               int token, int first_head) {
    const int thread = static_cast<int>(threadIdx.x);
    const WideQueries<Dim> queries(base, thread);
    queries.copy(params, token, first_head);
    queries.note_tops(control.head_top);
    ptx::named_barrier(kMathBarrier, kMathThreads);
    queries.split(control.head_top);
    if (thread < kHeads)
        control.head_factor[thread] =
            params.scale_log2 *
            power_of(WideQueries<Dim>::exponent_of(control.head_top[thread]) - kHeadExponent + kUnitExponent);
    ptx::fence_shared_async();
    ptx::named_barrier(kMathBarrier, kMathThreads);
}

}  // namespace tokamak::mla::cuda::wide_decode
