// SPDX-License-Identifier: Apache-2.0
// How the splits of the direct kernel meet: a warp sends the two parts that it has, and every block adds the parts that
// it owns.
#pragma once

#include "mla/cuda/flat_decode/direct_values.cuh"

namespace tokamak::mla::cuda::flat_decode::direct {

template <int M>
class DirectExchange {
    using L = Layout<M>;
    using Parts = Exchange<16 * M, true, false>;
    /// Sums of a head's codes times weights are below 2^16 times this power, over rows.
    static constexpr int kWeightBits = -6;

  public:
    __device__ __forceinline__ DirectExchange(const Params& params, DirectControl<M>& control, std::uint32_t base,
                                              int rank, int warp, int lane)
        : params_(params),
          control_(control),
          parts_(params, {base + L::kStaged, base + L::kLanding, &control.landed}, rank, kWeightBits),
          base_(base),
          rank_(rank),
          warp_(warp),
          lane_(lane) {}

    /// Puts the warp's output where the copy engine takes it, or, if it is this block's own, where the others' land.
    __device__ __forceinline__ void stage(const Output<M>& out) const {
        const float factor = parts_.forth();
        const int c = lane_ % 4;
        const int part = 2 * warp_ + c / 2;
        const std::uint32_t to = owner_of(part) == rank_ ? landing(part) : staged(part);
#pragma unroll
        for (int m = 0; m < M; ++m)
#pragma unroll
            for (int h = 0; h < 2; ++h) {
                const auto two = [&](int t, int x) {
                    return pack_f16(out[m][t][2 * h + x] * factor, out[m][t + 1][2 * h + x] * factor);
                };
                store_shared(to + Parts::offset(16 * m + lane_ / 4 + 8 * h, c % 2),
                             {two(0, 0), two(2, 0), two(0, 1), two(2, 1)});
            }
    }

    /// By one lane, behind a fence and a barrier of the warp. Two parts of one owner are neighbours on both sides.
    __device__ __forceinline__ void push() const {
        const int part = 2 * warp_;
        if (params_.owned_parts % 2 == 0) {
            push(part, 2 * L::kPart);
        } else {
            push(part, L::kPart);
            push(part + 1, L::kPart);
        }
    }

    /// Eight dimensions of a head are an item; the eight lanes that differ in `lane / 4` have two splits each.
    [[nodiscard]] __device__ __forceinline__ int items() const { return parts_.parts() * 32 * M; }

    /// Behind the arrival of all sums: what the splits' parts of item `first + lane % 4` are multiplied by.
    __device__ __forceinline__ void settle(int token, int first_head, int first) {
        token_ = token;
        item_ = first + lane_ % 4;
        h_ = item_ / 2 % (16 * M);
        head_ = first_head + h_;
        const float sink = head_ < params_.heads ? sink_of(params_, head_) : -kInfinity;
        float4 own[2] = {{kNoReference, 0.0F, -kInfinity, 0.0F}, {kNoReference, 0.0F, -kInfinity, 0.0F}};
#pragma unroll
        for (int s = 0; s < 2; ++s)
            if (source(s) < params_.splits) own[s] = control_.sums[source(s)][h_];
        const auto larger = [](float a, float b) { return max_or_nan(a, b); };
        HeadSums all;
        all.reference = over_splits(max_or_nan(own[0].x, own[1].x), larger);
        if (params_.max_logits != nullptr) all.top = over_splits(max_or_nan(own[0].z, own[1].z), larger);
#pragma unroll
        for (int s = 0; s < 2; ++s)
            factor_[s] = own[s].x == kNoReference ? 0.0F : exp2_fast(own[s].x - all.reference);
        all.sum = over_splits(fmaf(own[0].y, factor_[0], own[1].y * factor_[1]), [](float a, float b) { return a + b; });
        const float factor = factor_of(all, sink) * parts_.back();
        factor_[0] *= factor;
        factor_[1] *= factor;
        if (rank_ == 0 && lane_ < 4 && item_ < 32 * M && item_ % 2 == 0 && head_ < params_.heads)
            store_statistics(params_, token, head_, all, sink);
    }

    /// Behind the arrival of all parts.
    __device__ __forceinline__ void add() const {
        const int part = item_ / (32 * M);
        float sums[8] = {};
#pragma unroll
        for (int s = 0; s < 2; ++s) {
            if (source(s) >= params_.splits) continue;
            const uint4 v = load_shared_16(landing_of(source(s)) + part * L::kPart + Parts::offset(h_, item_ % 2));
            const std::uint32_t twos[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const float2 two = __half22float2(*reinterpret_cast<const __half2*>(&twos[i]));
                sums[2 * i] = fmaf(two.x, factor_[s], sums[2 * i]);
                sums[2 * i + 1] = fmaf(two.y, factor_[s], sums[2 * i + 1]);
            }
        }
        // Lanes halve the dimensions among each other, then both of two have the sums of two.
        const bool upper = (lane_ & 16) != 0;
#pragma unroll
        for (int i = 0; i < 4; ++i) halve(sums[i], sums[i + 4], upper, 16);
        const bool second = (lane_ & 8) != 0;
#pragma unroll
        for (int i = 0; i < 2; ++i) halve(sums[i], sums[i + 2], second, 8);
#pragma unroll
        for (int i = 0; i < 2; ++i) sums[i] += __shfl_xor_sync(~0U, sums[i], 4);
        const float2 two[1] = {{sums[0], sums[1]}};
        const int dim = parts_.first_dim() + part * 16 + item_ % 2 * 8 + (upper ? 4 : 0) + (second ? 2 : 0);
        if ((lane_ & 4) == 0) parts_.template store<1>(token_, head_, dim, two);
    }

  private:
    [[nodiscard]] __device__ __forceinline__ int source(int s) const { return lane_ / 4 * 2 + s; }
    template <typename Combine>
    [[nodiscard]] __device__ __forceinline__ static float over_splits(float v, const Combine& combine) {
#pragma unroll
        for (int step = 4; step < 32; step *= 2) v = combine(v, __shfl_xor_sync(~0U, v, step));
        return v;
    }
    /// Of two numbers `kept` becomes the sum of the first or, for upper lanes, the second, over both lanes.
    __device__ __forceinline__ static void halve(float& kept, float other, bool upper, int step) {
        const float given = upper ? kept : other;
        kept = (upper ? other : kept) + __shfl_xor_sync(~0U, given, step);
    }

    __device__ __forceinline__ void push(int part, int bytes) const {
        const int owner = owner_of(part);
        if (owner != rank_)
            ptx::bulk_push(ptx::address_in(owner, landing(part)), staged(part), bytes,
                           ptx::address_in(owner, &control_.landed));
    }
    [[nodiscard]] __device__ __forceinline__ int owner_of(int part) const { return part * params_.part_magic >> 8; }
    [[nodiscard]] __device__ __forceinline__ std::uint32_t staged(int part) const {
        return base_ + L::kStaged + part * L::kPart;
    }
    [[nodiscard]] __device__ __forceinline__ std::uint32_t landing_of(int source) const {
        return base_ + L::kLanding + source * (params_.owned_parts * L::kPart + kLandingSkew);
    }
    /// Of this block's part, in its owner's memory.
    [[nodiscard]] __device__ __forceinline__ std::uint32_t landing(int part) const {
        return landing_of(rank_) + (part - owner_of(part) * params_.owned_parts) * L::kPart;
    }

    const Params& params_;
    DirectControl<M>& control_;
    Parts parts_;
    std::uint32_t base_;
    int rank_, warp_, lane_;
    int token_, item_, h_, head_;
    float factor_[2];
};

}  // namespace tokamak::mla::cuda::flat_decode::direct
