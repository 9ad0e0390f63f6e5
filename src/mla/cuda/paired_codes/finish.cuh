// SPDX-License-Identifier: Apache-2.0
// Queries into shared memory as f16, and finished sums to the caller's output.
#pragma once

#include "cuda/ptx/copy.cuh"
#include "mla/cuda/paired_codes/turns.cuh"
#include "mla/cuda/sparse_decode/queries.cuh"
#include "mla/cuda/sparse_decode/statistics.cuh"
#include "mla/cuda/sparse_decode/store_eight.cuh"

namespace tokamak::mla::cuda::paired_codes {

/// Queries as K-major slabs, or as rows lie if they are shared; eight threads have 128 bytes of a head in each slab,
/// two heads. Heads past the last are zero. A head is divided by a power of two of its own, so that no thread waits for
/// others.
template <bool Shared>
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
            const std::uint32_t words[4] = {v.x, v.y, v.z, v.w};
            const int piece = thread_ & 7;
#pragma unroll
            for (int p = 0; p < 4; ++p)
                store_shared_word(
                    base_ + Tiles<Shared>::slab(slab) + Tiles<Shared>::at(row, piece % 2 * 4 + p) + piece / 2 * 4,
                    scale_bf16(words[p], factor));
        }
        if ((thread_ & 7) == 0) control.head_factor[row] = params_.scale_log2 * power_of(power);
    }

    const Params& params_;
    std::uint32_t base_;
    int token_, first_head_, thread_;
    uint4 own_[kOwn][kSlabs];
};

/// A warp's 16 heads by `Dims` dimensions, all of a head together. `sums` are as products leave them, times `factor` of
/// their heads: a thread has 16 dimensions of each slab of two heads.
template <int Dims>
struct WarpOutput {
    const Params& params;
    int token, first_head, first_dim, lane;

    __device__ __forceinline__ void store(const float (&sums)[Dims / 2], const float (&factor)[2]) const {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            const int head = first_head + lane / 4 + 8 * h;
            const std::int64_t at = token * params.out_token_stride + head * params.out_head_stride + first_dim;
#pragma unroll
            for (int slab = 0; slab < Dims / kSlabDims; ++slab) {
                const bool stored = head < params.heads && first_dim + slab * kSlabDims < params.value_dim;
                if (params.out_kind == OutKind::f32)
                    store_f32(sums, at + slab * kSlabDims, stored, slab, h, factor[h]);
                else
                    store_slab(sums, at + slab * kSlabDims, stored, slab, h, factor[h]);
            }
        }
    }

  private:
    [[nodiscard]] __device__ __forceinline__ static constexpr int sum_of(int slab, int h, int i) {
        return (slab * 8 + i / 2) * 4 + 2 * h + i % 2;
    }
    /// Neighbours exchange eight dimensions, so that two of them write 32 bytes side by side.
    __device__ __forceinline__ void store_slab(const float (&sums)[Dims / 2], std::int64_t at, bool stored, int slab,
                                               int h, float factor) const {
        std::uint32_t eight[2][4];
#pragma unroll
        for (int p = 0; p < 8; ++p) {
            const float a = sums[sum_of(slab, h, 2 * p)] * factor;
            const float b = sums[sum_of(slab, h, 2 * p + 1)] * factor;
            eight[p / 4][p % 4] = params.out_kind == OutKind::bf16 ? pack_bf16(a, b) : pack_f16(a, b);
        }
        const bool odd = (lane & 1) != 0;
#pragma unroll
        for (int p = 0; p < 4; ++p) {
            const std::uint32_t got = __shfl_xor_sync(~0U, odd ? eight[0][p] : eight[1][p], 1);
            (odd ? eight[0][p] : eight[1][p]) = got;
        }
        if (!stored) return;
        const int first = 16 * (lane & 2) + 8 * (lane & 1);
        store_eight(params, at + first, uint4{eight[0][0], eight[0][1], eight[0][2], eight[0][3]});
        store_eight(params, at + first + 16, uint4{eight[1][0], eight[1][1], eight[1][2], eight[1][3]});
    }
    __device__ __forceinline__ void store_f32(const float (&sums)[Dims / 2], std::int64_t at, bool stored, int slab,
                                              int h, float factor) const {
        if (!stored) return;
        float* const out = static_cast<float*>(params.out) + at + 16 * (lane & 3);
#pragma unroll
        for (int i = 0; i < 16; ++i) out[i] = sums[sum_of(slab, h, i)] * factor;
    }
};

}  // namespace tokamak::mla::cuda::paired_codes
