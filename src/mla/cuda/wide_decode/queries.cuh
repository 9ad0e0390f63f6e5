// SPDX-License-Identifier: Apache-2.0
// Queries as K-major slabs of 64 dimensions under the swizzle, in the order in which lanes read a row; f16, divided by
// one power of two.
#pragma once

#include "mla/cuda/sparse_decode/queries.cuh"
#include "mla/cuda/wide_decode/shape.cuh"

namespace tokamak::mla::cuda::wide_decode {

template <int Dim>
class WideQueries {
    static constexpr int kSlabs = Dim / kSlabDims;
    static constexpr int kAll = kHeads * kSlabs * 8;  ///< chunks of eight dimensions
    static constexpr int kOwn = kAll / kMathThreads;
    static constexpr bool kEven = kAll % kMathThreads == 0;
    static constexpr int kPieces = kOwn + (kEven ? 0 : 1);  ///< of a thread

  public:
    /// Returns the exponent of the power that scores must be multiplied by. By all math threads.
    __device__ __forceinline__ static int load(const Params& params, WideControl& control, std::uint32_t base, int token,
                                               int first_head, int thread) {
        uint4 own[kPieces];
        fetch(params, token, first_head, thread, own);
        unsigned both = 0;
#pragma unroll
        for (const uint4& v : own)
            both = __vmaxu2(both, __vmaxu2(__vmaxu2(v.x & 0x7FFF7FFFU, v.y & 0x7FFF7FFFU),
                                           __vmaxu2(v.z & 0x7FFF7FFFU, v.w & 0x7FFF7FFFU)));
        unsigned top = max(both & 0xFFFFU, both >> 16);
        if (top >= 0x7F80U) {
            top = 0;
#pragma unroll
            for (const uint4& v : own) top = max(top, top_of(v));
        }
        top = __reduce_max_sync(~0U, top);
        if (thread % 32 == 0) atomicMax(&control.query_top, top);
        ptx::named_barrier(kMathBarrier, kMathThreads);
        const int power = max(15, static_cast<int>(control.query_top >> 7) - 14);
        const float factor = power_of(2 * kUnitExponent - power);
#pragma unroll
        for (int i = 0; i < kPieces; ++i) {
            const int piece = thread + i * kMathThreads;
            if (kEven || piece < kAll) store(base, piece, own[i], factor);
        }
        ptx::fence_shared_async();
        ptx::named_barrier(kMathBarrier, kMathThreads);
        return power;
    }

  private:
    template <std::size_t Count>
    __device__ __forceinline__ static void fetch(const Params& params, int token, int first_head, int thread,
                                                 uint4 (&own)[Count]) {
        const auto* const q = static_cast<const std::uint16_t*>(params.q) + token * params.q_token_stride;
        const auto from = [&](int i, bool& real) {
            const int piece = thread + i * kMathThreads;
            const int head = first_head + piece / 8 % kHeads;
            real = head < params.heads && (kEven || piece < kAll);
            return q + (real ? head * params.q_head_stride + piece / (8 * kHeads) * kSlabDims + piece % 8 * 8 : 0);
        };
        if (params.q_vectors) {
#pragma unroll
            for (int i = 0; i < static_cast<int>(Count); ++i) {
                bool real;
                const std::uint16_t* const at = from(i, real);
                own[i] = {0, 0, 0, 0};
                if (real) own[i] = __ldg(reinterpret_cast<const uint4*>(at));
            }
        } else {
#pragma unroll
            for (int i = 0; i < static_cast<int>(Count); ++i) {
                bool real;
                const std::uint16_t* const at = from(i, real);
                own[i] = real ? load_eight(at) : uint4{0, 0, 0, 0};
            }
        }
    }

    /// A lane reads 16 codes of a row for four steps of 16 dimensions, of rotary values eight for two: its pairs of
    /// dimensions are at k = 2 c and 2 c + 8 of one step after the other.
    __device__ __forceinline__ static void store(std::uint32_t base, int piece, const uint4& v, float factor) {
        const int slab = piece / (8 * kHeads);
        const int head = piece / 8 % kHeads;
        const int u = piece % 8;
        const bool rotary = slab == RawRow<Dim>::kCodeSlabs;
        const int first_step = rotary ? u / 4 * 2 : u % 2 * 2;
        const int c = rotary ? u % 4 : u / 2;
        const std::uint32_t row = base + slab * (kHeads * 128);
        const std::uint32_t words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
        for (int w = 0; w < 4; ++w) {
            const std::uint32_t at = row + swizzled(head, 2 * (first_step + w / 2) + w % 2) + 4 * c;
            const float low = __uint_as_float(words[w] << 16) * factor;
            const float high = __uint_as_float(words[w] & 0xFFFF0000U) * factor;
            asm volatile("st.shared.u32 [%0], %1;" ::"r"(at), "r"(pack_f16(low, high)) : "memory");
        }
    }
};

}  // namespace tokamak::mla::cuda::wide_decode
