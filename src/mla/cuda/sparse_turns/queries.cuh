// SPDX-License-Identifier: Apache-2.0
// Queries of 64 heads as K-major slabs in the order of the rows' slabs; heads past the last are zero. Eight threads
// have 128 bytes of a head, copied to where they are converted: what this costs is being fetched, so loops are short.
#pragma once

#include "mla/cuda/sparse_decode/queries.cuh"
#include "mla/cuda/sparse_turns/shared.cuh"

namespace tokamak::mla::cuda::sparse_decode {

template <int Dim>
class TurnQueries {
  public:
    __device__ __forceinline__ TurnQueries(std::uint32_t base, int thread)
        : at_(base + swizzled(thread / 8, thread & 7)), first_(thread / 8), chunk_(thread & 7) {}

    __device__ __forceinline__ void start(const Params& params, int token, int first_head) const {
        const auto* const q = static_cast<const std::uint16_t*>(params.q) + token * params.q_token_stride + chunk_ * 8;
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int head = first_head + first_ + half * kHeadsAtOnce;
            const bool real = head < params.heads;
            const std::uint16_t* const from = q + (real ? head : 0) * params.q_head_stride;
            const std::uint32_t to = at_ + half * kHalfBytes;
            if (params.q_vectors) {
#pragma unroll
                for (int s = 0; s < kSlabCount; ++s)
                    ptx::copy_16(to + s * kSlabBytes, from + slab_dims<Dim>(s) * kSlabDims, real);
            } else {
#pragma unroll 1
                for (int s = 0; s < kSlabCount; ++s) {
                    uint4 v = {0, 0, 0, 0};
                    if (real) v = load_eight(from + slab_dims<Dim>(s) * kSlabDims);
                    store_shared(to + s * kSlabBytes, v);
                }
            }
        }
        ptx::copy_commit();
    }

    /// Returns the exponent of the power that scores must be multiplied by, as load_queries does.
    __device__ __forceinline__ int finish(TurnControl& control) const {
        ptx::copy_wait<0>();
        const unsigned top = __reduce_max_sync(~0U, largest());
        if (threadIdx.x % 32 == 0) atomicMax(&control.query_top, top);
        ptx::named_barrier(kMathBarrier, kTurnMathThreads);
        const int power = max(15, static_cast<int>(control.query_top >> 7) - 14);
        const float factor = power_of(2 * kUnitExponent - power);
        // Rotary values of 576 stay bf16; the rows' have not been multiplied by the usual power.
        const float of_rotary = factor * (1 << (kUnitExponent - kPlainExponent));
#pragma unroll 1
        for (int s = 0; s < kSlabCount; ++s)
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const std::uint32_t at = at_ + s * kSlabBytes + half * kHalfBytes;
                const uint4 v = load_shared_16(at);
                const uint4 stored =
                    Dim == 576 && s == 0
                        ? uint4{scale_pair(v.x, of_rotary), scale_pair(v.y, of_rotary), scale_pair(v.z, of_rotary),
                                scale_pair(v.w, of_rotary)}
                        : uint4{scale_bf16(v.x, factor), scale_bf16(v.y, factor), scale_bf16(v.z, factor),
                                scale_bf16(v.w, factor)};
                store_shared(at, stored);
            }
        ptx::fence_shared_async();
        ptx::named_barrier(kMathBarrier, kTurnMathThreads);
        return power;
    }

  private:
    static constexpr int kSlabCount = Slabs<Dim>::kCount;
    static constexpr int kHeadsAtOnce = kTurnMathThreads / 8;
    static constexpr int kHalfBytes = kHeadsAtOnce * 128;

    /// Magnitude of this thread's largest finite element, as bf16.
    [[nodiscard]] __device__ __forceinline__ unsigned largest() const {
        unsigned both = 0;
#pragma unroll 1
        for (int s = 0; s < kSlabCount; ++s)
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const uint4 v = load_shared_16(at_ + s * kSlabBytes + half * kHalfBytes);
                both = __vmaxu2(both, __vmaxu2(__vmaxu2(v.x & 0x7FFF7FFFU, v.y & 0x7FFF7FFFU),
                                               __vmaxu2(v.z & 0x7FFF7FFFU, v.w & 0x7FFF7FFFU)));
            }
        unsigned top = max(both & 0xFFFFU, both >> 16);
        if (top < 0x7F80U) return top;
        top = 0;
#pragma unroll 1
        for (int s = 0; s < 2 * kSlabCount; ++s)
            top = max(top, top_of(load_shared_16(at_ + s / 2 * kSlabBytes + s % 2 * kHalfBytes)));
        return top;
    }

    /// Two bf16 values times a power of two.
    [[nodiscard]] __device__ __forceinline__ static std::uint32_t scale_pair(std::uint32_t two, float factor) {
        return pack_bf16(__uint_as_float(two << 16) * factor, __uint_as_float(two & 0xFFFF0000U) * factor);
    }

    std::uint32_t at_;
    int first_, chunk_;
};

}  // namespace tokamak::mla::cuda::sparse_decode
