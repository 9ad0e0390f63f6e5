// SPDX-License-Identifier: Apache-2.0
// How the splits of the direct kernel meet: the helping warps tell the sums and settle what the parts are multiplied by,
// while the others make the parts; a warp sends the two that it has, and every block adds those that it owns.
#pragma once

#include "mla/cuda/flat_decode/direct_values.cuh"

namespace tokamak::mla::cuda::flat_decode::direct {

/// Tells all splits the sums of this one; by a helping thread.
template <int M>
__device__ __forceinline__ void tell(const Params& params, DirectControl<M>& control, int rank, int thread) {
    for (int i = thread; i < 16 * M * params.splits; i += kHelperThreads) {
        const int h = i % (16 * M);
        const int to = i / (16 * M);
        float sum = 0.0F;
#pragma unroll
        for (int w = 0; w < kDirectWarps; w += 4) {
            const float4 four = *reinterpret_cast<const float4*>(&control.sum[h][w]);
            sum += (four.x + four.y) + (four.z + four.w);
        }
        const float4 sums = {control.reference[h], sum, params.max_logits != nullptr ? control.top[h] : -kInfinity,
                             0.0F};
        if (to == rank)
            control.sums[rank][h] = sums;
        else
            ptx::store_counted(ptx::address_in(to, &control.sums[rank][h]), sums, ptx::address_in(to, &control.told));
    }
    __syncwarp();
    if (thread % 32 == 0) ptx::barrier_arrive(&control.told);
}

/// Behind the arrival of all sums: factors of a head's splits, two of them for each of eight threads. The first block
/// stores the statistics.
template <int M>
__device__ __forceinline__ void settle(const Params& params, DirectControl<M>& control, float back, int token,
                                       int first_head, int h, bool stores) {
    const auto over_eight = [](float v, auto combine) {
#pragma unroll
        for (int step = 1; step < 8; step *= 2) v = combine(v, __shfl_xor_sync(~0U, v, step));
        return v;
    };
    const auto larger = [](float a, float b) { return max_or_nan(a, b); };
    const int source = static_cast<int>(threadIdx.x) % 8 * 2;
    const int head = first_head + h;
    const float sink = head < params.heads ? sink_of(params, head) : -kInfinity;
    float4 own[2] = {{kNoReference, 0.0F, -kInfinity, 0.0F}, {kNoReference, 0.0F, -kInfinity, 0.0F}};
#pragma unroll
    for (int s = 0; s < 2; ++s)
        if (source + s < params.splits) own[s] = control.sums[source + s][h];
    HeadSums all;
    all.reference = over_eight(max_or_nan(own[0].x, own[1].x), larger);
    if (params.max_logits != nullptr) all.top = over_eight(max_or_nan(own[0].z, own[1].z), larger);
    float weight[2];
#pragma unroll
    for (int s = 0; s < 2; ++s) weight[s] = own[s].x == kNoReference ? 0.0F : exp2_fast(own[s].x - all.reference);
    all.sum = over_eight(fmaf(own[0].y, weight[0], own[1].y * weight[1]), [](float a, float b) { return a + b; });
    const float factor = factor_of(all, sink) * back;
    control.factor[h][source] = weight[0] * factor;
    control.factor[h][source + 1] = weight[1] * factor;
    if (stores && source == 0 && head < params.heads) store_statistics(params, token, head, all, sink);
}

/// Parts of the output on their way.
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

    [[nodiscard]] __device__ __forceinline__ float back() const { return parts_.back(); }

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

    /// Behind the arrival of all parts and factors: a thread two dimensions of a head.
    __device__ __forceinline__ void add(int token, int first_head) const {
        constexpr int kItems = 8 * 16 * M;  ///< of a part
        for (int item = warp_ * 32 + lane_; item < kItems * parts_.parts(); item += kMainThreads) {
            const int part = item / kItems;
            const int h = item / 8 % (16 * M);
            const int pair = item % 8;
            const std::uint32_t at = parts_.landing_of(part) + Parts::offset(h, pair / 4) + pair % 4 * 4;
            float2 sums[1] = {};
#pragma unroll
            for (int first = 0; first < kMostSplits; first += 4) {
                if (first >= params_.splits) break;
                const float4 four = *reinterpret_cast<const float4*>(&control_.factor[h][first]);
                const float factor[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
                for (int s = 0; s < 4; ++s) {
                    // Behind the last split: of the last one once more, times 0. (A branch for each costs more.)
                    const float2 v = Parts::two_at(at + min(first + s, params_.splits - 1) * parts_.landing_step());
                    sums[0].x = fmaf(v.x, factor[s], sums[0].x);
                    sums[0].y = fmaf(v.y, factor[s], sums[0].y);
                }
            }
            parts_.template store<1>(token, first_head + h, parts_.first_dim() + part * 16 + pair * 2, sums);
        }
    }

  private:
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
    /// Of this block's part, in its owner's memory.
    [[nodiscard]] __device__ __forceinline__ std::uint32_t landing(int part) const {
        return base_ + L::kLanding + (part + (rank_ - owner_of(part)) * params_.owned_parts) * L::kPart;
    }

    const Params& params_;
    DirectControl<M>& control_;
    Parts parts_;
    std::uint32_t base_;
    int rank_, warp_, lane_;
};

}  // namespace tokamak::mla::cuda::flat_decode::direct
