// SPDX-License-Identifier: Apache-2.0
// Queries into shared memory, and finished sums to the caller's output.
#pragma once

#include "mla/cuda/paired_decode/turns.cuh"
#include "mla/cuda/sparse_decode/queries.cuh"
#include "mla/cuda/sparse_decode/statistics.cuh"
#include "mla/cuda/sparse_decode/store_eight.cuh"

namespace tokamak::mla::cuda::paired_decode {

/// Queries as K-major slabs; eight threads have 128 bytes of a head. Heads past the last are zero.
template <int Dim>
class Queries {
    static constexpr int kSlabs = PairedShape<Dim>::kSlabs;
    static constexpr int kAtOnce = kTurnThreads / 8;

  public:
    /// Starts what can be copied: first thing in a block, as rows soon take all that memory can bring.
    __device__ __forceinline__ static void start(const Params& params, std::uint32_t base, int token, int first_head,
                                                 int thread) {
        if (!params.q_vectors) return;
#pragma unroll
        for (int row = thread / 8; row < kHeads; row += kAtOnce) {
            const bool real = first_head + row < params.heads;
            const std::uint16_t* const from = source(params, token, real ? first_head + row : 0, thread);
#pragma unroll
            for (int slab = 0; slab < kSlabs; ++slab)
                ptx::copy_16(base + slab * (kHeads * 128) + swizzled(row, thread & 7), from + slab * kSlabDims, real);
        }
        ptx::copy_commit();
    }

    /// Until all are there.
    __device__ __forceinline__ static void finish(const Params& params, std::uint32_t base, int token, int first_head,
                                                  int thread) {
        if (!params.q_vectors) {
#pragma unroll 2
            for (int piece = thread / 8; piece < kHeads * kSlabs; piece += kAtOnce) {
                const int row = piece % kHeads;
                const int slab = piece / kHeads;
                const bool real = first_head + row < params.heads;
                const std::uint16_t* const from = source(params, token, real ? first_head + row : 0, thread);
                store_shared(base + slab * (kHeads * 128) + swizzled(row, thread & 7),
                             real ? load_eight(from + slab * kSlabDims) : uint4{0, 0, 0, 0});
            }
        }
        ptx::copy_wait<0>();
        ptx::fence_shared_async();
        ptx::named_barrier(kTurnBarrier, kTurnThreads);
    }

  private:
    [[nodiscard]] __device__ __forceinline__ static const std::uint16_t* source(const Params& params, int token,
                                                                                int head, int thread) {
        return static_cast<const std::uint16_t*>(params.q) + token * params.q_token_stride +
               head * params.q_head_stride + (thread & 7) * 8;
    }
};

/// Eight dimensions of a head, if the caller has these. `Eight`: uint4 or float[8].
template <typename Eight>
__device__ __forceinline__ void store_eight(const Params& params, int token, int head, int dim, const Eight& eight) {
    if (head >= params.heads || dim >= params.value_dim) return;
    sparse_decode::store_eight(params, token * params.out_token_stride + head * params.out_head_stride + dim, eight);
}

/// A warp's 16 heads by 256 dimensions, through 8 KB of shared memory of its own, a head's 512 bytes together.
struct WarpOutput {
    const Params& params;
    std::uint32_t staging;
    int token, first_head, first_dim, lane;

    __device__ __forceinline__ void store(const float (&sums)[128], const float (&factor)[2]) const {
        if (params.out_kind == OutKind::f32) return store_f32(sums, factor);
#pragma unroll
        for (int i = 0; i < 16; ++i) {
            std::uint32_t four[4];
#pragma unroll
            for (int e = 0; e < 4; ++e) {
                const float a = sums[8 * i + 2 * e] * factor[e % 2];
                const float b = sums[8 * i + 2 * e + 1] * factor[e % 2];
                four[e] = params.out_kind == OutKind::bf16 ? pack_bf16(a, b) : pack_f16(a, b);
            }
            store_matrix(place(lane % 16, 2 * i + lane / 16), four);
        }
        __syncwarp();
#pragma unroll 4
        for (int h = 0; h < 16; ++h)
            store_eight(params, token, first_head + h, first_dim + lane * 8, load_shared_16(place(h, lane)));
    }

  private:
    [[nodiscard]] __device__ __forceinline__ std::uint32_t place(int head, int chunk) const {
        return staging + head * 512 + ((chunk ^ (head & 7)) << 4);
    }
    __device__ __forceinline__ void store_f32(const float (&sums)[128], const float (&factor)[2]) const {
        auto* const out = static_cast<float*>(params.out) + token * params.out_token_stride;
#pragma unroll
        for (int i = 0; i < 128; ++i) {
            const int head = first_head + lane / 4 + i / 2 % 2 * 8;
            const int dim = first_dim + i / 4 * 8 + 2 * (lane & 3) + i % 2;
            if (head < params.heads && dim < params.value_dim)
                out[head * params.out_head_stride + dim] = sums[i] * factor[i / 2 % 2];
        }
    }
};

}  // namespace tokamak::mla::cuda::paired_decode
