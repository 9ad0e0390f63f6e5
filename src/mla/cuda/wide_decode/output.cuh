// SPDX-License-Identifier: Apache-2.0
// A warp's 64 dimensions of 64 heads to the caller's output, or to the exchange between splits: a lane has eight
// dimensions side by side of each head.
#pragma once

#include "mla/cuda/sparse_decode/exchange.cuh"
#include "mla/cuda/store_dims.cuh"
#include "mla/cuda/wide_decode/accumulate.cuh"

namespace tokamak::mla::cuda::wide_decode {

/// Dimensions 8 g + i of head number `e` of column pair j.
__device__ __forceinline__ float value_of(const Sums<kHeads>& sums, int j, int e, int i) {
    return sums.tile[i / 2][4 * j + i % 2 * 2 + e];
}

/// Stores a lane's eight dimensions of each head straight from registers; eight lanes have 128 bytes of a head
/// together. What is not the usual case is apart: its code is long, and all that is here is fetched to be run once.
__device__ __forceinline__ void store_sums(const Params& params, const Sums<kHeads>& sums, int token, int first_head,
                                           int part, int lane) {
    if (part * 64 >= params.value_dim) return;
    const int first = first_head + 2 * (lane & 3);
    const std::int64_t at = token * params.out_token_stride + first * params.out_head_stride + part * 64 + lane / 4 * 8;
    if (params.out_kind == OutKind::f32 || !params.out_vectors) {
#pragma unroll
        for (int h = 0; h < kHeads; ++h) {
            if (h % 8 > 1 || first + h >= params.heads) continue;
            float v[8];
#pragma unroll
            for (int i = 0; i < 8; ++i) v[i] = value_of(sums, h / 8, h % 8, i);
            sparse_decode::store_dims(params, at + h * params.out_head_stride, v);
        }
        return;
    }
    auto* const out = static_cast<std::uint16_t*>(params.out) + at;
    const bool bf16 = params.out_kind == OutKind::bf16;
#pragma unroll
    for (int h = 0; h < kHeads; ++h) {
        if (h % 8 > 1) continue;
        std::uint32_t words[4];
#pragma unroll
        for (int w = 0; w < 4; ++w) {
            const float low = value_of(sums, h / 8, h % 8, 2 * w);
            const float high = value_of(sums, h / 8, h % 8, 2 * w + 1);
            words[w] = bf16 ? pack_bf16(low, high) : pack_f16(low, high);
        }
        if (first + h < params.heads)
            *reinterpret_cast<uint4*>(out + h * params.out_head_stride) = {words[0], words[1], words[2], words[3]};
    }
}

/// Of eight dimensions of head h in a part. Eight lanes that store have four heads two apart, eight that load four side
/// by side: both touch every bank once.
__device__ __forceinline__ std::uint32_t part_offset(int h, int eight) {
    return static_cast<std::uint32_t>(((h * 2 + eight) ^ (h >> 2 & 1) << 1) * 16);
}

/// The four parts of 16 dimensions that a warp has, on their way to the splits that own them.
template <int Dim>
class Sender {
  public:
    __device__ __forceinline__ Sender(const Params& params, WideControl& control, std::uint32_t base, int rank,
                                      int blocks, int warp_part)
        : params_(params), control_(control), base_(base), rank_(rank), first_(warp_part * 4), blocks_(blocks) {}

    /// Where a lane puts its eight dimensions of a head: its own split's parts where those of the others land.
    [[nodiscard]] __device__ __forceinline__ std::uint32_t place(int lane) const {
        const int part = first_ + lane / 8;
        return owner_of(part) == rank_ ? landing(part) : base_ + staged_part<Dim>(part, blocks_);
    }

    /// By one lane, behind a fence and a barrier of the warp. Parts of one owner are neighbours on both sides.
    __device__ __forceinline__ void push() const {
#pragma unroll 1
        for (int part = first_; part < first_ + 4;) {
            const int owner = owner_of(part);
            const int end = min(first_ + 4, (owner + 1) * params_.owned_parts);
            if (owner != rank_)
                ptx::bulk_push(ptx::address_in(owner, landing(part)), base_ + staged_part<Dim>(part, blocks_),
                               (end - part) * kPartBytes<kHeads>, ptx::address_in(owner, &control_.landed));
            part = end;
        }
    }

  private:
    [[nodiscard]] __device__ __forceinline__ int owner_of(int part) const { return part * params_.part_magic >> 8; }
    [[nodiscard]] __device__ __forceinline__ std::uint32_t landing(int part) const {
        return base_ + (part + (rank_ - owner_of(part)) * params_.owned_parts) * kPartBytes<kHeads>;
    }

    const Params& params_;
    WideControl& control_;
    std::uint32_t base_;
    int rank_, first_, blocks_;
};

/// A warp's sums, in f16, to `to` (of a lane).
__device__ __forceinline__ void stage_sums(const Sums<kHeads>& sums, float factor, std::uint32_t to, int lane) {
#pragma unroll
    for (int j = 0; j < kHeads / 8; ++j) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
            std::uint32_t words[4];
#pragma unroll
            for (int w = 0; w < 4; ++w)
                words[w] = pack_f16(value_of(sums, j, e, 2 * w) * factor, value_of(sums, j, e, 2 * w + 1) * factor);
            store_shared(to + part_offset(8 * j + 2 * (lane & 3) + e, lane / 4 % 2),
                         {words[0], words[1], words[2], words[3]});
        }
    }
}

/// A head's sums of all splits together; leaves what the splits' parts are multiplied by in place of their references,
/// as two f16 numbers (an eighth of at most 1, so that sums of eight parts stay in range), and what their sum is.
__device__ __forceinline__ HeadSums merge_splits(WideControl& control, int count, int h, float sink) {
    HeadSums all;
    float4 of[kMaxSplits];
#pragma unroll
    for (int r = 0; r < kMaxSplits; ++r) of[r] = control.splits[min(r, count - 1)].head[h];
#pragma unroll
    for (int r = 0; r < kMaxSplits; ++r) {
        all.top = max_or_nan(all.top, of[r].z);
        all.reference = max_or_nan(all.reference, of[r].x);
    }
#pragma unroll
    for (int r = 0; r < kMaxSplits; ++r) {
        const float weight = r >= count || of[r].x == kNoReference ? 0.0F : exp2_fast(of[r].x - all.reference);
        all.sum = fmaf(of[r].y, weight, all.sum);
        control.splits[r].head[h].x = __uint_as_float(pack_f16(weight * 0.125F, weight * 0.125F));
    }
    control.factor[h] = factor_of(all, sink) * 8.0F;
    return all;
}

inline constexpr int kPartItems = 2 * kHeads;

/// Adds the parts that this split owns and stores them, when all have landed; by the accumulating threads, each eight
/// dimensions of a head at a time. Sums are f16 as the parts are, with an error of the same size (in f32 a thread takes
/// 200 instructions for it instead of 80). Behind the last split: of the last one once more, times 0. Without `stores`
/// it is run for its code and its lines of the constant bank.
__device__ __forceinline__ void add_parts(const Params& params, const WideControl& control,
                                          const Exchange<kHeads, true, false>& exchange, const WidePlace& place,
                                          int items, bool stores) {
    const std::uint32_t step = exchange.landing_step();
    const float back = exchange.back();
    const auto half_of = [](const std::uint32_t& two) { return *reinterpret_cast<const __half2*>(&two); };
#pragma unroll 1
    for (int i = static_cast<int>(threadIdx.x) - kScorers; i < items; i += kMathThreads - kScorers) {
        const int h = i / 2 % kHeads;
        const std::uint32_t at = exchange.landing_of(i / kPartItems) + part_offset(h, i % 2);
        __half2 sums[4] = {};
#pragma unroll
        for (int s = 0; s < kMaxSplits; ++s) {
            const std::uint32_t share = __float_as_uint(control.splits[s].head[h].x);
            const uint4 part = load_shared_16(at + min(s, params.splits - 1) * step);
            sums[0] = __hfma2(half_of(part.x), half_of(share), sums[0]);
            sums[1] = __hfma2(half_of(part.y), half_of(share), sums[1]);
            sums[2] = __hfma2(half_of(part.z), half_of(share), sums[2]);
            sums[3] = __hfma2(half_of(part.w), half_of(share), sums[3]);
        }
        const float factor = control.factor[h] * back;
        float out[8];
#pragma unroll
        for (int w = 0; w < 4; ++w) {
            const float2 v = __half22float2(sums[w]);
            out[2 * w] = v.x * factor;
            out[2 * w + 1] = v.y * factor;
        }
        const int head = place.first_head + h;
        const int dim = exchange.first_dim() + i / kPartItems * 16 + i % 2 * 8;
        std::int64_t to = place.token * params.out_token_stride + head * params.out_head_stride + dim;
        asm volatile("" : "+l"(to));  // made also where nothing is stored
        if (stores && head < params.heads && dim < params.value_dim) sparse_decode::store_dims(params, to, out);
    }
}

}  // namespace tokamak::mla::cuda::wide_decode
