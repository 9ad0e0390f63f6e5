// SPDX-License-Identifier: Apache-2.0
// Queries as K-major slabs of 64 dimensions under the swizzle, the rotary ones first. A head's queries are divided by a
// power of two that leaves the largest just below 2^8. The rotary ones become f16; the others the sum of two e4m3
// numbers: bf16 has eight significant bits and e4m3 four, so the sum is exact down to 2^-17 of the head's largest. A
// head's 128 bytes of a slab are 64 first numbers, then 64 rests, in the order in which lanes read a row.
#pragma once

#include "mla/cuda/sparse_decode/queries.cuh"
#include "mla/cuda/wide_decode/shape.cuh"

namespace tokamak::mla::cuda::wide_decode {

/// Slab of the rotary dimensions, and that of codes [64 j, 64 j + 64).
inline constexpr int kRotaryQueries = 0;
__device__ __forceinline__ constexpr int query_slab(int j) { return j + 1; }

/// Exponent (of a normal number) of the power that queries with this largest magnitude are divided by.
__device__ __forceinline__ int query_power(unsigned top) { return max(8, static_cast<int>(top >> 7) - 7); }

/// Two f16 numbers as e4m3.
__device__ __forceinline__ std::uint32_t codes_of(std::uint32_t two) {
    std::uint16_t codes;
    asm("cvt.rn.satfinite.e4m3x2.f16x2 %0, %1;" : "=h"(codes) : "r"(two));
    return codes;
}
/// What their rounding took away; NaN for infinities, which e4m3 lacks.
__device__ __forceinline__ std::uint32_t rest_of(std::uint32_t two, std::uint32_t codes) {
    const __half2 all = *reinterpret_cast<const __half2*>(&two);
    return bits_of(__hadd2(__hsub2(all, halves_of(codes)), __hsub2(all, all)));
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

    /// Largest magnitudes of finite elements, by head.
    __device__ __forceinline__ void note_tops(unsigned* tops) const {
#pragma unroll 2
        for (int piece = piece_; piece < kAll; piece += kAtOnce) {
            unsigned top = top_of(load_shared_16(this->place(piece)));
#pragma unroll
            for (int step = 1; step < 8; step *= 2) top = max(top, __shfl_xor_sync(~0U, top, step));
            if (chunk_ == 0) atomicMax(&tops[piece % kHeads], top);
        }
    }

    /// Eight lanes have a head's 128 bytes, so that they can change places where they lie.
    __device__ __forceinline__ void convert_in_order(const unsigned* tops) const {
#pragma unroll 2
        for (int piece = piece_; piece < kAll; piece += kAtOnce) {
            const uint4 v = load_shared_16(this->place(piece));
            const int head = piece % kHeads;
            const float factor = power_of(2 * kUnitExponent - query_power(tops[head]));
            std::uint32_t words[4] = {scale_bf16(v.x, factor), scale_bf16(v.y, factor), scale_bf16(v.z, factor),
                                      scale_bf16(v.w, factor)};
            const bool rotary = piece / kHeads == kRotaryQueries;
            if (!rotary) split(words);
            __syncwarp();
            // Rotary: lane c of a row reads pairs of dimensions 2 c and 2 c + 8 of one step after the other. Codes: 16
            // bytes, of which eight are its columns of one step, four and four.
            const int word = rotary ? chunk_ % 4 : chunk_ / 2;
            const int unit = rotary ? chunk_ / 4 * 4 : chunk_ % 2 * 2;
            const std::uint32_t row = base_ + piece / kHeads * (kHeads * 128) + word * 4;
#pragma unroll
            for (int w = 0; w < 4; ++w)
                asm volatile("st.shared.u32 [%0], %1;" ::"r"(
                                 row + swizzled(head, unit + w + (rotary || w < 2 ? 0 : 2))),
                             "r"(words[w])
                             : "memory");
        }
    }

  private:
    /// Eight f16 numbers to their e4m3 numbers, four in a word, then the rests.
    __device__ __forceinline__ static void split(std::uint32_t (&words)[4]) {
        std::uint32_t codes[4];
        std::uint32_t rests[4];
#pragma unroll
        for (int w = 0; w < 4; ++w) {
            codes[w] = codes_of(words[w]);
            rests[w] = codes_of(rest_of(words[w], codes[w]));
        }
        words[0] = codes[0] | codes[1] << 16;
        words[1] = codes[2] | codes[3] << 16;
        words[2] = rests[0] | rests[1] << 16;
        words[3] = rests[2] | rests[3] << 16;
    }
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
    if (thread < kHeads)
        control.query_factor[thread] = params.scale_log2 * power_of(query_power(control.head_top[thread]));
    queries.convert_in_order(control.head_top);
    ptx::fence_shared_async();
    ptx::named_barrier(kMathBarrier, kMathThreads);
}

}  // namespace tokamak::mla::cuda::wide_decode
