// SPDX-License-Identifier: Apache-2.0
// Queries of N heads as K-major slabs in the order of the rows' slabs; heads past the last are zero. All math threads
// load them.
#pragma once

#include "mla/cuda/sparse_decode/shared.cuh"

namespace tokamak::mla::cuda::sparse_decode {

/// Eight elements at any address.
__device__ __forceinline__ uint4 load_eight(const std::uint16_t* from) {
    const auto pair = [from](int p) { return from[2 * p] | static_cast<std::uint32_t>(from[2 * p + 1]) << 16; };
    return {pair(0), pair(1), pair(2), pair(3)};
}

/// Largest magnitude of finite bf16 elements.
__device__ __forceinline__ unsigned top_of(const uint4& v) {
    const std::uint32_t words[4] = {v.x, v.y, v.z, v.w};
    unsigned top = 0;
#pragma unroll
    for (const std::uint32_t word : words) {
        const unsigned low = word & 0x7FFFU;
        const unsigned high = word >> 16 & 0x7FFFU;
        top = max(top, max(low < 0x7F80U ? low : 0U, high < 0x7F80U ? high : 0U));
    }
    return top;
}

/// Eight threads have 128 bytes of a head: copied as they are, then converted where they lie, in short loops. (What
/// this costs is being fetched: unrolled, 64 heads took twice as long.)
template <int Dim, int N, bool Half>
class QueryLoader {
  public:
    __device__ __forceinline__ QueryLoader(std::uint32_t base, int thread)
        : base_(base), piece_(thread / 8), chunk_(thread & 7) {}

    __device__ __forceinline__ void copy(const Params& params, int token, int first_head) const {
        const auto* const q = static_cast<const std::uint16_t*>(params.q) + token * params.q_token_stride + chunk_ * 8;
#pragma unroll 2
        for (int piece = piece_; piece < kAll; piece += kAtOnce) {
            const int head = first_head + piece % N;
            const bool real = head < params.heads;
            const int dims = slab_dims<Dim>(piece / N) * kSlabDims;
            const std::uint16_t* const from = q + (real ? head : 0) * params.q_head_stride + dims;
            if (params.q_vectors)
                ptx::copy_16(place(piece), from, real);
            else
                store_shared(place(piece), real ? load_eight(from) : uint4{0, 0, 0, 0});
        }
        ptx::copy_commit();
        ptx::copy_wait<0>();
    }

    /// Of finite elements, as bf16.
    [[nodiscard]] __device__ __forceinline__ unsigned largest() const {
        unsigned both = 0;
#pragma unroll 2
        for (int piece = piece_; piece < kAll; piece += kAtOnce) {
            const uint4 v = load_shared_16(place(piece));
            both = __vmaxu2(both, __vmaxu2(__vmaxu2(v.x & 0x7FFF7FFFU, v.y & 0x7FFF7FFFU),
                                           __vmaxu2(v.z & 0x7FFF7FFFU, v.w & 0x7FFF7FFFU)));
        }
        unsigned top = max(both & 0xFFFFU, both >> 16);
        if (top < 0x7F80U) return top;
        top = 0;
#pragma unroll 1
        for (int piece = piece_; piece < kAll; piece += kAtOnce) top = max(top, top_of(load_shared_16(place(piece))));
        return top;
    }

    __device__ __forceinline__ void convert(float factor) const {
#pragma unroll 2
        for (int piece = piece_; piece < kAll; piece += kAtOnce) {
            const uint4 v = load_shared_16(place(piece));
            store_shared(place(piece), {scale_bf16(v.x, factor), scale_bf16(v.y, factor), scale_bf16(v.z, factor),
                                        scale_bf16(v.w, factor)});
        }
    }

  protected:                                             // the wide form converts into another order
    static constexpr int kAll = N * Slabs<Dim>::kCount;  ///< pieces: heads, slab by slab
    static constexpr int kAtOnce = kMathThreads / 8;

    [[nodiscard]] __device__ __forceinline__ std::uint32_t place(int piece) const {
        return base_ + piece / N * (N * 128) + swizzled(piece % N, chunk_);
    }

    std::uint32_t base_;
    int piece_, chunk_;
};

/// Returns the exponent (of a normal number) of the power that scores must be multiplied by: as f16, queries are
/// divided by a power of two that leaves the largest element just below 2^15.
template <int Dim, int N, bool Half>
__device__ __forceinline__ int load_queries(const Params& params, Control<N>& control, std::uint32_t base, int token,
                                            int first_head, int thread) {
    const QueryLoader<Dim, N, Half> queries(base, thread);
    queries.copy(params, token, first_head);
    int power = kUnitExponent;
    if constexpr (Half) {
        const unsigned top = __reduce_max_sync(~0U, queries.largest());
        if (thread % 32 == 0) atomicMax(&control.query_top, top);
        ptx::named_barrier(kMathBarrier, kMathThreads);
        power = max(15, static_cast<int>(control.query_top >> 7) - 14);
        queries.convert(power_of(2 * kUnitExponent - power));
    }
    ptx::fence_shared_async();
    ptx::named_barrier(kMathBarrier, kMathThreads);
    return power;
}

}  // namespace tokamak::mla::cuda::sparse_decode
