// SPDX-License-Identifier: Apache-2.0
// Queries as K-major slabs of 64 dimensions under the swizzle, the rotary ones first, in the order in which lanes read a
// row; f16, divided by one power of two.
#pragma once

#include "mla/cuda/sparse_decode/queries.cuh"
#include "mla/cuda/wide_decode/shape.cuh"

namespace tokamak::mla::cuda::wide_decode {

/// Slab of the rotary dimensions, and that of codes [64 j, 64 j + 64).
inline constexpr int kRotaryQueries = 0;
__device__ __forceinline__ constexpr int query_slab(int j) { return j + 1; }

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

    /// A lane reads 16 codes of a row for four steps of 16 dimensions, of rotary values eight for two: pairs of
    /// dimensions are at k = 2 c and 2 c + 8 of one step after the other. Eight lanes have a head's 128 bytes, so that
    /// they can change places where they lie.
    __device__ __forceinline__ void convert_in_order(float factor) const {
#pragma unroll 2
        for (int piece = piece_; piece < kAll; piece += kAtOnce) {
            const uint4 v = load_shared_16(this->place(piece));
            __syncwarp();
            const bool rotary = piece / kHeads == kRotaryQueries;
            const int first_unit = rotary ? chunk_ / 4 * 4 : chunk_ % 2 * 4;
            const std::uint32_t row = base_ + piece / kHeads * (kHeads * 128) + (rotary ? chunk_ % 4 : chunk_ / 2) * 4;
            const std::uint32_t words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
            for (int w = 0; w < 4; ++w)
                asm volatile("st.shared.u32 [%0], %1;" ::"r"(row + swizzled(piece % kHeads, first_unit + w)),
                             "r"(scale_bf16(words[w], factor))
                             : "memory");
        }
    }
};

/// Returns the exponent of the power that scores must be multiplied by. By all math threads. (Not inlined: the code of
/// both roles that call it is fetched once.)
template <int Dim>
__device__ __noinline__ int load_wide_queries(const Params& params, WideControl& control, std::uint32_t base, int token,
                                              int first_head) {
    const int thread = static_cast<int>(threadIdx.x);
    const WideQueries<Dim> queries(base, thread);
    queries.copy(params, token, first_head);
    const unsigned top = __reduce_max_sync(~0U, queries.largest());
    if (thread % 32 == 0) atomicMax(&control.query_top, top);
    ptx::named_barrier(kMathBarrier, kMathThreads);
    const int power = max(15, static_cast<int>(control.query_top >> 7) - 14);
    queries.convert_in_order(power_of(2 * kUnitExponent - power));
    ptx::fence_shared_async();
    ptx::named_barrier(kMathBarrier, kMathThreads);
    return power;
}

}  // namespace tokamak::mla::cuda::wide_decode
