// SPDX-License-Identifier: Apache-2.0
// Queries into shared memory as f16, and finished sums to the caller's output.
#pragma once

#include "cuda/ptx/copy.cuh"
#include "mla/cuda/paired_codes/turns.cuh"
#include "mla/cuda/sparse_decode/queries.cuh"
#include "mla/cuda/sparse_decode/statistics.cuh"
#include "mla/cuda/sparse_decode/store_eight.cuh"

namespace tokamak::mla::cuda::paired_codes {

/// Queries as K-major slabs; eight threads have 128 bytes of a head in each slab, two heads. Heads past the last are
/// zero. A head is divided by a power of two of its own, so that no thread waits for others.
class Queries {
    static constexpr int kOwn = kHeads * 8 / kTurnThreads;  ///< heads

  public:
    __device__ __forceinline__ Queries(const Params& params, std::uint32_t base, int token, int first_head, int thread)
        : params_(params), base_(base), token_(token), first_head_(first_head), thread_(thread) {}

    /// Asks for four slabs of all heads; for heads past the last, for those of the first.
    __device__ __forceinline__ void load(int first_slab) {
        if (params_.q_vectors)
            load_with([](const std::uint16_t* from) { return ptx::load_streaming(from); }, first_slab);
        else
            load_with([](const std::uint16_t* from) { return load_eight(from); }, first_slab);
    }

    /// When all are there.
    __device__ __forceinline__ void store(CodesControl& control) const {
#pragma unroll
        for (int i = 0; i < kOwn; ++i) convert(control, row_of(i), own_[i]);
        ptx::fence_shared_async();
        ptx::named_barrier(kTurnBarrier, kTurnThreads);
    }

  private:
    template <typename Load>
    __device__ __forceinline__ void load_with(const Load& load, int first_slab) {
#pragma unroll
        for (int i = 0; i < kOwn; ++i) {
            const int head = is_real(row_of(i)) ? first_head_ + row_of(i) : 0;
            const std::uint16_t* const from = static_cast<const std::uint16_t*>(params_.q) +
                                              token_ * params_.q_token_stride + head * params_.q_head_stride +
                                              (thread_ & 7) * 8;
#pragma unroll
            for (int slab = 0; slab < kHalfSlabs; ++slab)
                own_[i][first_slab + slab] = load(from + (first_slab + slab) * kSlabDims);
        }
    }
    [[nodiscard]] __device__ __forceinline__ bool is_real(int row) const { return first_head_ + row < params_.heads; }
    [[nodiscard]] __device__ __forceinline__ int row_of(int i) const { return thread_ / 8 + i * (kTurnThreads / 8); }

    __device__ __forceinline__ void convert(CodesControl& control, int row, const uint4 (&own)[kSlabs]) const {
        unsigned both = 0;
#pragma unroll
        for (const uint4& v : own)
            both = __vmaxu2(both, __vmaxu2(__vmaxu2(v.x & 0x7FFF7FFFU, v.y & 0x7FFF7FFFU),
                                           __vmaxu2(v.z & 0x7FFF7FFFU, v.w & 0x7FFF7FFFU)));
        unsigned top = max(both & 0xFFFFU, both >> 16);
        if (top >= 0x7F80U) {  // of finite elements
            top = 0;
#pragma unroll
            for (const uint4& v : own) top = max(top, top_of(v));
        }
#pragma unroll
        for (int step = 1; step < 8; step *= 2) top = max(top, __shfl_xor_sync(~0U, top, step));
        const int power = max(15, static_cast<int>(top >> 7) - 14);
        const float factor = is_real(row) ? power_of(2 * kUnitExponent - power) : 0.0F;
#pragma unroll
        for (int slab = 0; slab < kSlabs; ++slab) {
            const uint4& v = own[slab];
            store_shared(
                base_ + slab * (kHeads * 128) + swizzled(row, thread_ & 7),
                {scale_bf16(v.x, factor), scale_bf16(v.y, factor), scale_bf16(v.z, factor), scale_bf16(v.w, factor)});
        }
        if ((thread_ & 7) == 0) control.head_factor[row] = params_.scale_log2 * power_of(power);
    }

    const Params& params_;
    std::uint32_t base_;
    int token_, first_head_, thread_;
    uint4 own_[kOwn][kSlabs];
};

/// Eight dimensions of a head, if the caller has these. `Eight`: uint4 or float[8].
template <typename Eight>
__device__ __forceinline__ void store_eight(const Params& params, int token, int head, int dim, const Eight& eight) {
    if (head >= params.heads || dim >= params.value_dim) return;
    sparse_decode::store_eight(params, token * params.out_token_stride + head * params.out_head_stride + dim, eight);
}

/// A warp's 16 heads by `Dims` dimensions, through shared memory of its own (32 bytes a dimension), all of a head
/// together. `sums` are as products leave them, times `factor` of their heads.
template <int Dims>
struct WarpOutput {
    const Params& params;
    std::uint32_t staging;
    int token, first_head, first_dim, lane;

    __device__ __forceinline__ void store(const float (&sums)[Dims / 2], const float (&factor)[2]) const {
        if (params.out_kind == OutKind::f32) return store_f32(sums, factor);
#pragma unroll
        for (int i = 0; i < Dims / 16; ++i) {
            std::uint32_t four[4];
#pragma unroll
            for (int e = 0; e < 4; ++e) {
                const float a = sums[8 * i + 2 * e] * factor[e % 2];
                const float b = sums[8 * i + 2 * e + 1] * factor[e % 2];
                four[e] = params.out_kind == OutKind::bf16 ? pack_bf16(a, b) : pack_f16(a, b);
            }
            ptx::store_matrix_x4(place(lane % 16, 2 * i + lane / 16), four);
        }
        __syncwarp();
        constexpr int kLanes = Dims / 8;  // that have a head
#pragma unroll 4
        for (int h = 0; h < 16; h += 32 / kLanes) {
            const int head = h + lane / kLanes;
            store_eight(params, token, first_head + head, first_dim + lane % kLanes * 8,
                        load_shared_16(place(head, lane % kLanes)));
        }
    }

  private:
    [[nodiscard]] __device__ __forceinline__ std::uint32_t place(int head, int chunk) const {
        return staging + head * (Dims * 2) + ((chunk ^ (head & 7)) << 4);
    }
    __device__ __forceinline__ void store_f32(const float (&sums)[Dims / 2], const float (&factor)[2]) const {
        auto* const out = static_cast<float*>(params.out) + token * params.out_token_stride;
#pragma unroll
        for (int i = 0; i < Dims / 2; ++i) {
            const int head = first_head + lane / 4 + i / 2 % 2 * 8;
            const int dim = first_dim + i / 4 * 8 + 2 * (lane & 3) + i % 2;
            if (head < params.heads && dim < params.value_dim)
                out[head * params.out_head_stride + dim] = sums[i] * factor[i / 2 % 2];
        }
    }
};

}  // namespace tokamak::mla::cuda::paired_codes
