// SPDX-License-Identifier: Apache-2.0
// Queries into shared memory, and finished sums to the caller's output.
#pragma once

#include "mla/cuda/paired_decode/find.cuh"
#include "mla/cuda/paired_decode/turns.cuh"
#include "mla/cuda/sparse_decode/queries.cuh"
#include "mla/cuda/sparse_decode/statistics.cuh"
#include "mla/cuda/sparse_decode/store_eight.cuh"

namespace tokamak::mla::cuda::paired_decode {

/// Queries as K-major slabs; eight threads have 128 bytes of a head. Heads past the last are zero. They come in the
/// halves of the rows, the second one asked for behind the first rows: together these are more than memory brings in
/// the time.
template <int Dim>
class Queries {
    static constexpr int kSlabs = PairedShape<Dim>::kSlabs;
    static constexpr int kAtOnce = kTurnThreads / 8;

  public:
    __device__ __forceinline__ Queries(const Params& params, std::uint32_t base, const Place& place, int thread)
        : params_(params),
          base_(base),
          thread_(thread),
          first_head_(place.first_head),
          from_(static_cast<const std::uint16_t*>(params.q) + place.token * params.q_token_stride + (thread & 7) * 8) {}

    /// Starts what can be copied.
    template <int Half>
    __device__ __forceinline__ void start() const {
        if (!params_.q_vectors) return;
#pragma unroll
        for (int i = 0; i < kHeads / kAtOnce; ++i) {
            const int row = thread_ / 8 + i * kAtOnce;
            const bool real = first_head_ + row < params_.heads;
            const std::uint16_t* const from = from_ + (real ? first_head_ + row : 0) * params_.q_head_stride;
#pragma unroll
            for (int slab = Half * kHalfSlabs; slab < (Half == 0 ? kHalfSlabs : kSlabs); ++slab)
                ptx::copy_16(place(row, slab), from + slab * kSlabDims, real);
        }
        ptx::copy_commit();
    }

    /// Until all are there.
    __device__ __forceinline__ void finish() const {
        if (!params_.q_vectors) {
#pragma unroll 2
            for (int piece = thread_ / 8; piece < kHeads * kSlabs; piece += kAtOnce) {
                const int row = piece % kHeads;
                const int slab = piece / kHeads;
                const bool real = first_head_ + row < params_.heads;
                const std::uint16_t* const from = from_ + (real ? first_head_ + row : 0) * params_.q_head_stride;
                store_shared(place(row, slab), real ? load_eight(from + slab * kSlabDims) : uint4{0, 0, 0, 0});
            }
        }
        ptx::copy_wait<1>();
        ptx::fence_shared_async();
        ptx::named_barrier(kTurnBarrier, kTurnThreads);
    }

  private:
    [[nodiscard]] __device__ __forceinline__ std::uint32_t place(int row, int slab) const {
        return base_ + slab * (kHeads * 128) + swizzled(row, thread_ & 7);
    }

    const Params& params_;
    std::uint32_t base_;
    int thread_, first_head_;
    const std::uint16_t* from_;
};

/// Eight dimensions of a head, if the caller has these.
__device__ __forceinline__ void store_eight(const Params& params, int token, int head, int dim,
                                            const float (&eight)[8]) {
    if (head >= params.heads || dim >= params.value_dim) return;
    sparse_decode::store_eight(params, token * params.out_token_stride + head * params.out_head_stride + dim, eight);
}

/// A warp's 16 heads by 256 dimensions, through shared memory of its own, 64 dimensions at a time: what a
/// multiprocessor writes in a cycle (32 bytes) is what takes long, so that it starts with the first of them.
struct WarpOutput {
    static constexpr int kTileBytes = 16 * 128;
    static constexpr int kBytes = kHalfSlabs * kTileBytes;

    const Params& params;
    std::uint32_t staging;
    int token, first_head, first_dim, lane;

    __device__ __forceinline__ void store(const float (&sums)[128], const float (&factor)[2]) const {
        if (params.out_kind == OutKind::f32) return store_f32(sums, factor);
        if (params.out_kind == OutKind::bf16)
            store_16bit<true>(sums, factor);
        else
            store_16bit<false>(sums, factor);
    }

  private:
    template <bool Bf16>
    __device__ __forceinline__ void store_16bit(const float (&sums)[128], const float (&factor)[2]) const {
        const int head = first_head + lane / 8;
        std::uint16_t* const out = static_cast<std::uint16_t*>(params.out) + token * params.out_token_stride +
                                   head * params.out_head_stride + first_dim + lane % 8 * 8;
#pragma unroll
        for (int tile = 0; tile < kHalfSlabs; ++tile) {
            const std::uint32_t to = staging + tile * kTileBytes;
            stage<Bf16>(sums + 32 * tile, factor, to);
            __syncwarp();
            if (!params.out_vectors || first_dim + tile * kSlabDims >= params.value_dim) continue;
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const uint4 eight = load_shared_16(to + swizzled(lane / 8 + 4 * i, lane % 8));
                if (head + 4 * i < params.heads)
                    *reinterpret_cast<uint4*>(out + 4 * i * params.out_head_stride + tile * kSlabDims) = eight;
            }
        }
        if (!params.out_vectors) store_singly();
    }
    /// What was staged, where addresses are no multiples of 16.
    __device__ __forceinline__ void store_singly() const {
        __syncwarp();
        const int heads = min(16, params.heads - first_head);
        const int eights = max(0, min(kHalfDims, params.value_dim - first_dim)) / 8;
#pragma unroll 1
        for (int i = lane; i < heads * 32; i += 32) {
            const int chunk = i % 32;
            if (chunk >= eights) continue;
            const uint4 eight = load_shared_16(staging + chunk / 8 * kTileBytes + swizzled(i / 32, chunk % 8));
            sparse_decode::store_eight(params,
                                       token * params.out_token_stride +
                                           (first_head + i / 32) * params.out_head_stride + first_dim + chunk * 8,
                                       eight);
        }
    }
    /// 64 dimensions.
    template <bool Bf16>
    __device__ __forceinline__ void stage(const float* sums, const float (&factor)[2], std::uint32_t to) const {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            std::uint32_t four[4];
#pragma unroll
            for (int e = 0; e < 4; ++e) {
                const float a = sums[8 * i + 2 * e] * factor[e % 2];
                const float b = sums[8 * i + 2 * e + 1] * factor[e % 2];
                four[e] = Bf16 ? pack_bf16(a, b) : pack_f16(a, b);
            }
            store_matrix(to + swizzled(lane % 16, 2 * i + lane / 16), four);
        }
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
