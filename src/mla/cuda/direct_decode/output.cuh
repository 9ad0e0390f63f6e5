// SPDX-License-Identifier: Apache-2.0
// From the sums of groups and splits to the caller's output. A unit is eight dimensions of every lane of a warp: of two
// groups, each finishes one of a warp's two units. Splits send units in f32 to the blocks that own them.
#pragma once

#include "cuda/ptx/cluster.cuh"
#include "cuda/ptx/peer.cuh"
#include "mla/cuda/direct_decode/values.cuh"
#include "mla/cuda/direct_decode/weights.cuh"
#include "mla/cuda/sparse_decode/statistics.cuh"

namespace tokamak::mla::cuda::direct_decode {

/// What sums of one source are multiplied by to be relative to the common reference.
__device__ __forceinline__ float relative_factor(float reference, float common) {
    return reference == kNoReference ? 0.0F : exp2_fast(reference - common);
}

/// Sums of `count` sources together, in their order. of(i): x reference, y sum, z largest score.
template <typename Of>
__device__ __forceinline__ HeadSums combine(int count, const Of& of) {
    HeadSums all;
    for (int i = 0; i < count; ++i) {
        all.reference = max_or_nan(all.reference, of(i).x);
        all.top = max_or_nan(all.top, of(i).z);
    }
    for (int i = 0; i < count; ++i)
        all.sum = fmaf(of(i).y, relative_factor(of(i).x, all.reference), all.sum);
    return all;
}

template <int Dim, int N, int Groups>
class Output {
    using S = Shape<Dim, N, Groups>;
    using Control = DirectControl<Dim, N, Groups>;
    using OwnValues = Values<Dim, N, Groups>;
    static constexpr int kHeadTiles = S::kHeadTiles;
    static constexpr int kUnits = 2 / Groups;  ///< of a warp
    static constexpr int kAllUnits = 16;
    static constexpr int kUnitVectors = kHeadTiles * 4;  ///< 16 bytes of each lane
    static constexpr int kUnitBytes = kUnitVectors * 512;

  public:
    __device__ __forceinline__ Output(const Params& params, Control& control, unsigned char* shared, int token,
                                      int first_head, int rank, int group, int warp, int lane)
        : params_(params),
          control_(control),
          shared_(shared),
          token_(token),
          first_head_(first_head),
          rank_(rank),
          group_(group),
          warp_(warp),
          lane_(lane) {}

    /// By the thread that makes the barriers.
    __device__ __forceinline__ static void expect_others(const Params& params, Control& control) {
        ptx::barrier_init(&control.told, 1);
        ptx::barrier_init(&control.landed, 1);
        if (params.splits == 1) return;
        const int others = params.splits - 1;
        ptx::barrier_arrive_expect(&control.told, others * N * sizeof(float4));
        ptx::barrier_arrive_expect(&control.landed, others * (kAllUnits / params.splits) * kUnitBytes);
    }

    /// By all warps of the groups, after their last sums.
    __device__ __forceinline__ void finish(OwnValues& values) {
        join_barrier();
        float units[kUnits][kHeadTiles][2][8];
        join_groups(values, units);
        if (params_.splits == 1) {
            store_alone(units);
            return;
        }
        ptx::cluster_wait();  // the others' barriers are made
        tell_sums();
        int sent[kUnits];
#pragma unroll
        for (int u = 0; u < kUnits; ++u) sent[u] = send(u, units[u]);
        join_barrier();  // own sums
        ptx::barrier_wait(&control_.told, 0);
        ptx::barrier_wait(&control_.landed, 0);
#pragma unroll
        for (int u = 0; u < kUnits; ++u)
            if (sent[u] == rank_) add_splits(u, units[u]);
        if (rank_ == 0) store_sums([this](int h) { return of_splits(h); });
    }

  private:
    __device__ __forceinline__ static void join_barrier() { ptx::named_barrier(kJoinBarrier, S::kMathThreads); }
    [[nodiscard]] __device__ __forceinline__ int half_of(int u) const { return Groups == 2 ? group_ : u; }
    [[nodiscard]] __device__ __forceinline__ int unit(int u) const { return warp_ * 2 + half_of(u); }
    [[nodiscard]] __device__ __forceinline__ int head(int t, int eight) const {
        return 16 * t + 8 * eight + lane_ / 4;
    }
    [[nodiscard]] __device__ __forceinline__ HeadSums of_groups(int h) const {
        return combine(Groups, [&](int i) { return control_.of_group[i][h]; });
    }
    [[nodiscard]] __device__ __forceinline__ HeadSums of_splits(int h) const {
        return combine(params_.splits, [&](int i) { return control_.sums[i][h]; });
    }

    /// The other group's sums of this group's units, relative to the reference of both, are added.
    __device__ __forceinline__ void join_groups(OwnValues& values, float (&units)[kUnits][kHeadTiles][2][8]) {
        float factors[Groups][kHeadTiles][2];
#pragma unroll
        for (int t = 0; t < kHeadTiles; ++t)
#pragma unroll
            for (int eight = 0; eight < 2; ++eight) {
                const float common = of_groups(head(t, eight)).reference;
#pragma unroll
                for (int g = 0; g < Groups; ++g)
                    factors[g][t][eight] = relative_factor(control_.of_group[g][head(t, eight)].x, common);
            }
        const int thread = warp_ * 32 + lane_;
        const auto place = [&](int of_group, int t, int eight, int quad) {
            return reinterpret_cast<float4*>(shared_) +
                   (of_group * kUnitVectors + (t * 2 + eight) * 2 + quad) * kGroupThreads + thread;
        };
        if constexpr (Groups == 2) {
#pragma unroll
            for (int t = 0; t < kHeadTiles; ++t)
#pragma unroll
                for (int eight = 0; eight < 2; ++eight)
#pragma unroll
                    for (int quad = 0; quad < 2; ++quad) {
                        const auto v = [&](int i) {
                            return group_ == 0 ? values.at(t, eight, 1, 4 * quad + i)
                                               : values.at(t, eight, 0, 4 * quad + i);
                        };
                        *place(group_, t, eight, quad) = {v(0), v(1), v(2), v(3)};
                    }
            join_barrier();
        }
#pragma unroll
        for (int u = 0; u < kUnits; ++u)
#pragma unroll
            for (int t = 0; t < kHeadTiles; ++t)
#pragma unroll
                for (int eight = 0; eight < 2; ++eight)
#pragma unroll
                    for (int quad = 0; quad < 2; ++quad) {
                        float4 other = {};
                        if constexpr (Groups == 2) other = *place(1 - group_, t, eight, quad);
                        const float others[4] = {other.x, other.y, other.z, other.w};
#pragma unroll
                        for (int i = 0; i < 4; ++i) {
                            const int d = 4 * quad + i;
                            float& to = units[u][t][eight][d];
                            if constexpr (Groups == 2) {
                                const float own = group_ == 0 ? values.at(t, eight, 0, d) : values.at(t, eight, 1, d);
                                to = group_ == 0 ? fmaf(own, factors[0][t][eight], others[i] * factors[1][t][eight])
                                                 : fmaf(others[i], factors[0][t][eight], own * factors[1][t][eight]);
                            } else {
                                to = values.at(t, eight, u, d) * factors[0][t][eight];
                            }
                        }
                    }
    }

    __device__ __forceinline__ void store_alone(const float (&units)[kUnits][kHeadTiles][2][8]) {
#pragma unroll
        for (int t = 0; t < kHeadTiles; ++t)
#pragma unroll
            for (int eight = 0; eight < 2; ++eight) {
                const int h = first_head_ + head(t, eight);
                if (h >= params_.heads) continue;
                const float factor = factor_of(of_groups(head(t, eight)), sink_of(params_, h));
#pragma unroll
                for (int u = 0; u < kUnits; ++u) store(unit(u), h, units[u][t][eight], factor);
            }
        store_sums([this](int h) { return of_groups(h); });
    }

    /// Eight dimensions of a head.
    __device__ __forceinline__ void store(int unit, int h, const float (&v)[8], float factor) const {
        const int dim = unit / 2 * 64 + (lane_ & 3) * 16 + unit % 2 * 8;
        if (dim >= params_.value_dim) return;
        const std::int64_t at = token_ * params_.out_token_stride + h * params_.out_head_stride + dim;
        if (params_.out_kind == OutKind::f32) {
#pragma unroll
            for (int i = 0; i < 8; ++i) static_cast<float*>(params_.out)[at + i] = v[i] * factor;
            return;
        }
        std::uint32_t twos[4];
#pragma unroll
        for (int i = 0; i < 4; ++i)
            twos[i] = params_.out_kind == OutKind::bf16 ? pack_bf16(v[2 * i] * factor, v[2 * i + 1] * factor)
                                                        : pack_f16(v[2 * i] * factor, v[2 * i + 1] * factor);
        auto* const out = static_cast<std::uint16_t*>(params_.out) + at;
        if (params_.out_vectors) {
            *reinterpret_cast<uint4*>(out) = {twos[0], twos[1], twos[2], twos[3]};
        } else {
#pragma unroll
            for (int e = 0; e < 8; ++e) out[e] = static_cast<std::uint16_t>(twos[e / 2] >> (e % 2 * 16));
        }
    }

    template <typename Of>
    __device__ __forceinline__ void store_sums(const Of& of) const {
        const int h = static_cast<int>(threadIdx.x);
        if (h >= N || first_head_ + h >= params_.heads) return;
        store_statistics(params_, token_, first_head_ + h, of(h), sink_of(params_, first_head_ + h));
    }

    __device__ __forceinline__ void tell_sums() {
        for (int i = static_cast<int>(threadIdx.x); i < N * params_.splits; i += S::kMathThreads) {
            const int h = i % N;
            const int to = i / N;
            const HeadSums all = of_groups(h);
            const float4 sums = {all.reference, all.sum, all.top, 0.0F};
            if (to == rank_)
                control_.sums[rank_][h] = sums;
            else
                ptx::store_counted(ptx::address_in(to, &control_.sums[rank_][h]), sums,
                                   ptx::address_in(to, &control_.told));
        }
    }

    /// Where unit `unit` of split `source` lands in the block that owns it.
    [[nodiscard]] __device__ __forceinline__ unsigned char* landing(int unit, int source) const {
        const int owned = kAllUnits / params_.splits;
        return shared_ + S::kLanding + (unit % owned * params_.splits + source) * kUnitBytes + lane_ * 16;
    }

    /// Sends a unit to its owner, which it returns.
    __device__ __forceinline__ int send(int u, const float (&v)[kHeadTiles][2][8]) const {
        const int owner = unit(u) / (kAllUnits / params_.splits);
        if (owner == rank_) return owner;
        const std::uint32_t to = ptx::address_in(owner, landing(unit(u), rank_));
        const std::uint32_t landed = ptx::address_in(owner, &control_.landed);
#pragma unroll
        for (int t = 0; t < kHeadTiles; ++t)
#pragma unroll
            for (int eight = 0; eight < 2; ++eight)
#pragma unroll
                for (int quad = 0; quad < 2; ++quad) {
                    const float(&d)[8] = v[t][eight];
                    ptx::store_counted(to + ((t * 2 + eight) * 2 + quad) * 512,
                                       {d[4 * quad], d[4 * quad + 1], d[4 * quad + 2], d[4 * quad + 3]}, landed);
                }
        return owner;
    }

    /// Adds the unit's parts in the order of the splits, this block's own among them, and stores it.
    __device__ __forceinline__ void add_splits(int u, const float (&own)[kHeadTiles][2][8]) {
#pragma unroll
        for (int t = 0; t < kHeadTiles; ++t)
#pragma unroll
            for (int eight = 0; eight < 2; ++eight) {
                const int of_block = head(t, eight);
                const HeadSums all = of_splits(of_block);
                float sums[8] = {};
                for (int s = 0; s < params_.splits; ++s) {
                    const float factor = relative_factor(control_.sums[s][of_block].x, all.reference);
                    const unsigned char* const from = landing(unit(u), s) + (t * 2 + eight) * 1024;
                    const auto low = *reinterpret_cast<const float4*>(from);
                    const auto high = *reinterpret_cast<const float4*>(from + 512);
                    const float landed[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
#pragma unroll
                    for (int i = 0; i < 8; ++i)
                        sums[i] = fmaf(s == rank_ ? own[t][eight][i] : landed[i], factor, sums[i]);
                }
                const int h = first_head_ + of_block;
                if (h < params_.heads) store(unit(u), h, sums, factor_of(all, sink_of(params_, h)));
            }
    }

    const Params& params_;
    Control& control_;
    unsigned char* shared_;
    int token_, first_head_, rank_, group_, warp_, lane_;
};

}  // namespace tokamak::mla::cuda::direct_decode
