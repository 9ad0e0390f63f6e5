// SPDX-License-Identifier: Apache-2.0
// How the splits of the direct kernel meet: the helping warps tell the sums and settle what the parts are multiplied
// by, while the others make the parts; a warp sends the two that it has, and every block adds those that it owns.
#pragma once

#include "mla/cuda/flat_decode/column_values.cuh"
#include "mla/cuda/flat_decode/direct_values.cuh"
#include "mla/cuda/flat_decode/exchange.cuh"

namespace tokamak::mla::cuda::flat_decode::direct {

/// Tells all splits the sums of this one; by a helping thread.
template <int Heads, typename Control>
__device__ __forceinline__ void tell(const Params& params, Control& control, int rank, int thread) {
    tell_sums<Heads, kHelperThreads>(params, control, rank, thread, [&](int h) {
        float sum = 0.0F;
#pragma unroll
        for (int w = 0; w < kDirectWarps; w += 4) {
            const float4 four = *reinterpret_cast<const float4*>(&control.sum[h][w]);
            sum += (four.x + four.y) + (four.z + four.w);
        }
        return sum;
    });
}

/// Behind the arrival of all sums: factors of a head's splits, `Each` of them for a thread. The first block stores the
/// statistics.
template <int Each, typename Control>
__device__ __forceinline__ void settle(const Params& params, Control& control, float back, int token, int first_head,
                                       int thread, bool stores) {
    constexpr int kThreads = kMostSplits / Each;
    const auto over_threads = [](float v, auto combine) {
#pragma unroll
        for (int step = 1; step < kThreads; step *= 2) v = combine(v, __shfl_xor_sync(~0U, v, step));
        return v;
    };
    const auto larger = [](float a, float b) { return max_or_nan(a, b); };
    const int h = thread / kThreads;
    const int source = thread % kThreads * Each;
    const int head = first_head + h;
    const float sink = head < params.heads ? sink_of(params, head) : -kInfinity;
    float4 own[Each];
    HeadSums all;
#pragma unroll
    for (int s = 0; s < Each; ++s) {
        own[s] = {kNoReference, 0.0F, -kInfinity, 0.0F};
        if (source + s < params.splits) own[s] = control.sums[source + s][h];
        all.reference = s == 0 ? own[s].x : max_or_nan(all.reference, own[s].x);
        all.top = s == 0 ? own[s].z : max_or_nan(all.top, own[s].z);
    }
    all.reference = over_threads(all.reference, larger);
    if (params.max_logits != nullptr) all.top = over_threads(all.top, larger);
    float weight[Each];
    all.sum = 0.0F;
#pragma unroll
    for (int s = 0; s < Each; ++s) {
        weight[s] = own[s].x == kNoReference ? 0.0F : exp2_fast(own[s].x - all.reference);
        all.sum = fmaf(own[s].y, weight[s], all.sum);
    }
    all.sum = over_threads(all.sum, [](float a, float b) { return a + b; });
    const float factor = factor_of(all, sink) * back;
#pragma unroll
    for (int s = 0; s < Each; ++s) control.factor[h][source + s] = weight[s] * factor;
    if (stores && source == 0 && head < params.heads) store_statistics(params, token, head, all, sink);
}

/// Parts of the output on their way. Made early: addresses, and what of the parameters they come from, would take as
/// long as the work itself when they are needed.
template <int Dim, int Rows, int Heads>
class DirectExchange {
    using L = Layout<Dim, Rows, Heads>;
    using Control = DirectControl<Dim, Rows, Heads>;
    using Parts = Exchange<Heads, true, false>;
    static constexpr int kItems = 8 * Heads;  ///< of a part, two dimensions of a head each
    /// Sums of a head's codes times weights are below 2^16 times this power, over rows.
    static constexpr int kWeightBits = -6;

  public:
    __device__ __forceinline__ DirectExchange(const Params& params, Control& control, std::uint32_t base, int rank,
                                              int warp, int lane)
        : params_(params),
          control_(control),
          parts_(params, {base + L::kStaged, base + L::kLanding, &control.landed}, rank, kWeightBits),
          base_(base),
          rank_(rank),
          first_(2 * warp),
          lane_(lane) {
        const int part = first_ + (Heads == 16 ? lane % 4 / 2 : lane / 16);
        to_ = owner_of(part) == rank_ ? landing(part) : staged(part);
        first_push_ = push_of(first_);
        if (params.owned_parts % 2 != 0) second_push_ = push_of(first_ + 1);
        item_ = warp * 32 + lane;
    }

    [[nodiscard]] __device__ __forceinline__ float back() const { return parts_.back(); }

    /// Puts the warp's output where the copy engine takes it, or, if it is this block's own, where the others' land.
    __device__ __forceinline__ void stage(const ColumnOutput<Heads>& out) const {
        const float factor = parts_.forth();
#pragma unroll
        for (int h = 0; h < Heads / 8; ++h)
#pragma unroll
            for (int x = 0; x < 2; ++x) {
                const auto two = [&](int f) { return pack_f16(out[f][h][x] * factor, out[f][h][2 + x] * factor); };
                const int head = 8 * h + lane_ % 4 * 2 + x;
                store_shared_8(to_ + Parts::offset(head, lane_ / 8 % 2) + lane_ / 4 % 2 * 8, two(0), two(1));
            }
    }
    __device__ __forceinline__ void stage(const Output& out) const {
        const float factor = parts_.forth();
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            const auto two = [&](int t, int x) {
                return pack_f16(out[t][2 * h + x] * factor, out[t + 1][2 * h + x] * factor);
            };
            store_shared(to_ + Parts::offset(lane_ / 4 + 8 * h, lane_ % 2),
                         {two(0, 0), two(2, 0), two(0, 1), two(2, 1)});
        }
    }

    /// By one lane, behind a fence and a barrier of the warp. Two parts of one owner are neighbours on both sides.
    __device__ __forceinline__ void push() const {
        if (params_.owned_parts % 2 == 0) {
            push(first_push_, 2 * L::kPart);
        } else {
            push(first_push_, L::kPart);
            push(second_push_, L::kPart);
        }
    }

    /// Finds what this thread will add up first, and where it goes: the parameters for that come from memory too.
    __device__ __forceinline__ void take(int token, int first_head) {
        token_ = token;
        first_head_ = first_head;
        splits_ = params_.splits;
        items_ = kItems * parts_.parts();
        step_ = parts_.landing_step();
        kind_ = params_.out_vectors ? params_.out_kind : OutKind::f32;
        turn_to_item();
    }

    /// Behind the arrival of all parts and factors.
    __device__ __forceinline__ void add() {
        while (item_ < items_) {
            const float2 sums = add_splits(&control_.factor[item_ / 8 % Heads][0]);
            if (kind_ == OutKind::f32) {
                const float2 one[1] = {sums};
                parts_.template store<1>(token_, head(), dim(), one);
            } else if (out_ != nullptr) {
                *out_ = kind_ == OutKind::bf16 ? pack_bf16(sums.x, sums.y) : pack_f16(sums.x, sums.y);
            }
            item_ += kMainThreads;
            turn_to_item();
        }
    }

  private:
    struct Push {
        std::uint32_t to, from, barrier;
        bool own;
    };

    __device__ __forceinline__ static void add_one(float2& sums, const float2& v, float factor) {
        sums.x = fmaf(v.x, factor, sums.x);
        sums.y = fmaf(v.y, factor, sums.y);
    }
    /// Of `Count` splits from `first` on; behind the last split that one again, times 0.
    template <int Count, bool Clamped>
    __device__ __forceinline__ void add_some(float2& sums, const float* factors, int first) const {
        float2 parts[Count];
#pragma unroll
        for (int s = 0; s < Count; ++s)
            parts[s] = Parts::two_at(at_ + (Clamped ? min(first + s, splits_ - 1) : first + s) * step_);
#pragma unroll
        for (int s = 0; s < Count; s += 4) {
            const float4 factor = *reinterpret_cast<const float4*>(factors + first + s);
            add_one(sums, parts[s], factor.x);
            add_one(sums, parts[s + 1], factor.y);
            add_one(sums, parts[s + 2], factor.z);
            add_one(sums, parts[s + 3], factor.w);
        }
    }
    [[nodiscard]] __device__ __forceinline__ float2 add_splits(const float* factors) const {
        float2 sums = {0.0F, 0.0F};
        if (splits_ == kMostSplits) {
            add_some<kMostSplits, false>(sums, factors, 0);
        } else {
            add_some<8, true>(sums, factors, 0);
            for (int first = 8; first < splits_; first += 4) add_some<4, true>(sums, factors, first);
        }
        return sums;
    }
    [[nodiscard]] __device__ __forceinline__ int head() const { return first_head_ + item_ / 8 % Heads; }
    [[nodiscard]] __device__ __forceinline__ int dim() const {
        return parts_.first_dim() + item_ / kItems * 16 + item_ % 8 * 2;
    }
    __device__ __forceinline__ void turn_to_item() {
        const int pair = item_ % 8;
        at_ = parts_.landing_of(item_ / kItems) + Parts::offset(item_ / 8 % Heads, pair / 4) + pair % 4 * 4;
        out_ = nullptr;
        if (head() < params_.heads && dim() < params_.value_dim)
            out_ = reinterpret_cast<std::uint32_t*>(static_cast<std::uint16_t*>(params_.out) +
                                                    token_ * params_.out_token_stride +
                                                    head() * params_.out_head_stride + dim());
    }
    [[nodiscard]] __device__ __forceinline__ Push push_of(int part) const {
        const int owner = owner_of(part);
        return {ptx::address_in(owner, landing(part)), staged(part), ptx::address_in(owner, &control_.landed),
                owner == rank_};
    }
    __device__ __forceinline__ static void push(const Push& push, int bytes) {
        if (!push.own) ptx::bulk_push(push.to, push.from, bytes, push.barrier);
    }
    [[nodiscard]] __device__ __forceinline__ int owner_of(int part) const { return part * params_.part_magic >> 8; }
    [[nodiscard]] __device__ __forceinline__ std::uint32_t staged(int part) const {
        return base_ + L::kStaged + part * L::kPart;
    }
    /// Of this block's part, in its owner's memory.
    [[nodiscard]] __device__ __forceinline__ std::uint32_t landing(int part) const {
        return base_ + L::kLanding + (part + (rank_ - owner_of(part)) * params_.owned_parts) * L::kPart;
    }

    const Params& params_;
    Control& control_;
    Parts parts_;
    std::uint32_t base_;
    int rank_, first_, lane_;
    std::uint32_t to_;
    Push first_push_, second_push_{};
    int item_, items_ = 0, token_ = 0, first_head_ = 0, splits_ = 1;
    std::uint32_t at_ = 0, step_ = 0;
    OutKind kind_ = OutKind::f32;   ///< f32: or not aligned
    std::uint32_t* out_ = nullptr;  ///< where 16-bit elements go; null: nowhere
};

}  // namespace tokamak::mla::cuda::flat_decode::direct
