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

/// Sums of several sources together, in their order, and what each one's are multiplied by to be relative to the common
/// reference.
template <int Count>
struct Combined {
    HeadSums all;
    float factor[Count];

    /// of(i): x reference, y sum, z largest score.
    template <typename Of>
    __device__ __forceinline__ explicit Combined(const Of& of) {
        float4 source[Count];
#pragma unroll
        for (int i = 0; i < Count; ++i) {
            source[i] = of(i);
            all.reference = max_or_nan(all.reference, source[i].x);
            all.top = max_or_nan(all.top, source[i].z);
        }
#pragma unroll
        for (int i = 0; i < Count; ++i) {
            factor[i] = source[i].x == kNoReference ? 0.0F : exp2_fast(source[i].x - all.reference);
            all.sum = fmaf(source[i].y, factor[i], all.sum);
        }
    }
};

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
        ptx::barrier_init(&control.told, 2);                           // and the warp with the block's own sums
        ptx::barrier_init(&control.landed, 1 + S::kMathThreads / 32);  // and all warps, with the block's own units
        if (params.splits == 1) return;
        const int others = params.splits - 1;
        ptx::barrier_arrive_expect(&control.told, others * N * sizeof(float4));
        ptx::barrier_arrive_expect(&control.landed, others * units_of(params) * kUnitBytes);
    }

    /// By all warps of the groups, after their last sums.
    __device__ __forceinline__ void finish(OwnValues& values) {
        sums_barrier();
        float units[kUnits][kHeadTiles][2][8];
        join_groups(values, units);
        if (params_.splits == 1) {
            store_alone(units);
            return;
        }
        ptx::cluster_wait();  // the others' barriers are made
        tell_sums();
#pragma unroll
        for (int u = 0; u < kUnits; ++u) send(unit(u), units[u]);
        __syncwarp();
        if (lane_ == 0) ptx::barrier_arrive(&control_.landed);
        ptx::barrier_wait(&control_.told, 0);
        ptx::barrier_wait(&control_.landed, 0);
        switch (params_.splits) {
            case 2: return add_splits<2>();
            case 4: return add_splits<4>();
            case 8: return add_splits<8>();
            default: return add_splits<16>();
        }
    }

    /// lse and largest scores of the heads, by a producer warp.
    __device__ __forceinline__ void store_sums() const {
        sums_barrier();
        if (params_.splits == 1) return store_all_sums([this](int h) { return of_groups(h).all; });
        if (rank_ != 0) return;
        ptx::barrier_wait(&control_.told, 0);
        store_all_sums([this](int h) { return of_all_splits(h); });
    }

  private:
    /// All warps of the groups and one producer warp: the groups' sums are there.
    __device__ __forceinline__ static void sums_barrier() { ptx::named_barrier(kSumsBarrier, S::kMathThreads + 32); }
    /// Units that a block owns.
    [[nodiscard]] __device__ __forceinline__ static int units_of(const Params& params) {
        return params.owned_parts / 2;  // of 32 parts
    }
    __device__ __forceinline__ static void join_barrier() { ptx::named_barrier(kJoinBarrier, S::kMathThreads); }
    [[nodiscard]] __device__ __forceinline__ int half_of(int u) const { return Groups == 2 ? group_ : u; }
    [[nodiscard]] __device__ __forceinline__ int unit(int u) const { return warp_ * 2 + half_of(u); }
    [[nodiscard]] __device__ __forceinline__ int head(int t, int eight) const { return 16 * t + 8 * eight + lane_ / 4; }
    [[nodiscard]] __device__ __forceinline__ Combined<Groups> of_groups(int h) const {
        return Combined<Groups>([&](int i) { return control_.of_group[i][h]; });
    }

    template <int Splits>
    [[nodiscard]] __device__ __forceinline__ Combined<Splits> of_splits(int h) const {
        return Combined<Splits>([&](int i) { return control_.sums[i][h]; });
    }

    /// The same sums with few registers.
    [[nodiscard]] __device__ __forceinline__ HeadSums of_all_splits(int h) const {
        HeadSums all;
#pragma unroll 1
        for (int s = 0; s < params_.splits; ++s) {
            all.reference = max_or_nan(all.reference, control_.sums[s][h].x);
            all.top = max_or_nan(all.top, control_.sums[s][h].z);
        }
#pragma unroll 1
        for (int s = 0; s < params_.splits; ++s) {
            const float4 source = control_.sums[s][h];
            const float factor = source.x == kNoReference ? 0.0F : exp2_fast(source.x - all.reference);
            all.sum = fmaf(source.y, factor, all.sum);
        }
        return all;
    }

    /// The other group's sums of this group's units, relative to the reference of both, are added.
    __device__ __forceinline__ void join_groups(OwnValues& values, float (&units)[kUnits][kHeadTiles][2][8]) {
        float factors[Groups][kHeadTiles][2];
#pragma unroll
        for (int t = 0; t < kHeadTiles; ++t)
#pragma unroll
            for (int eight = 0; eight < 2; ++eight) {
                const Combined<Groups> combined = of_groups(head(t, eight));
#pragma unroll
                for (int g = 0; g < Groups; ++g) factors[g][t][eight] = combined.factor[g];
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
                const float factor = factor_of(of_groups(head(t, eight)).all, sink_of(params_, h));
#pragma unroll
                for (int u = 0; u < kUnits; ++u)
                    store<8>(unit(u) / 2 * 64 + (lane_ & 3) * 16 + unit(u) % 2 * 8, h, units[u][t][eight], factor);
            }
    }

    /// `Count` dimensions of a head.
    template <int Count>
    __device__ __forceinline__ void store(int dim, int h, const float (&v)[Count], float factor) const {
        if (dim >= params_.value_dim) return;
        const std::int64_t at = token_ * params_.out_token_stride + h * params_.out_head_stride + dim;
        if (params_.out_kind == OutKind::f32) {
#pragma unroll
            for (int i = 0; i < Count; ++i) static_cast<float*>(params_.out)[at + i] = v[i] * factor;
            return;
        }
        auto* const out = static_cast<std::uint16_t*>(params_.out) + at;
        std::uint32_t twos[(Count + 1) / 2];
#pragma unroll
        for (int i = 0; i < (Count + 1) / 2; ++i) {
            const float low = v[2 * i] * factor;
            const float high = 2 * i + 1 < Count ? v[(2 * i + 1) % Count] * factor : 0.0F;
            twos[i] = params_.out_kind == OutKind::bf16 ? pack_bf16(low, high) : pack_f16(low, high);
        }
        if constexpr (Count > 1) {
            if (params_.out_vectors) {
                if constexpr (Count == 8) *reinterpret_cast<uint4*>(out) = {twos[0], twos[1], twos[2], twos[3]};
                if constexpr (Count == 4) *reinterpret_cast<uint2*>(out) = {twos[0], twos[1]};
                if constexpr (Count == 2) *reinterpret_cast<std::uint32_t*>(out) = twos[0];
                return;
            }
        }
#pragma unroll
        for (int e = 0; e < Count; ++e) out[e] = static_cast<std::uint16_t>(twos[e / 2] >> (e % 2 * 16));
    }

    template <typename Of>
    __device__ __forceinline__ void store_all_sums(const Of& of) const {
        const int h = lane_;
        if (h >= N || first_head_ + h >= params_.heads) return;
        store_statistics(params_, token_, first_head_ + h, of(h), sink_of(params_, first_head_ + h));
    }

    /// To all blocks of the cluster, a thread one head to one of them.
    __device__ __forceinline__ void tell_sums() {
        static_assert(N * kMostSplits <= S::kMathThreads && 32 % N == 0);
        const int i = static_cast<int>(threadIdx.x);
        const int h = i % N;
        const int to = i / N;
        if (to < params_.splits) {
            const HeadSums all = of_groups(h).all;
            const float4 sums = {all.reference, all.sum, all.top, 0.0F};
            if (to == rank_)
                control_.sums[rank_][h] = sums;
            else
                ptx::store_counted(ptx::address_in(to, &control_.sums[rank_][h]), sums,
                                   ptx::address_in(to, &control_.told));
        }
        __syncwarp();
        if (i == rank_ * N) ptx::barrier_arrive(&control_.told);
    }

    /// Where a unit of split `source` lands, number `local` of those that the receiving block owns.
    [[nodiscard]] __device__ __forceinline__ unsigned char* landing(int local, int source) const {
        return shared_ + S::kLanding + (local * params_.splits + source) * kUnitBytes;
    }

    /// A unit to the block that owns it: vector i of the 16 bytes of all lanes behind vector i - 1.
    __device__ __forceinline__ void send(int unit, const float (&v)[kHeadTiles][2][8]) const {
        const int owned = units_of(params_);
        const int owner = unit / owned;
        unsigned char* const own = landing(unit % owned, rank_) + lane_ * 16;
        const std::uint32_t to = ptx::address_in(owner, own);
        const std::uint32_t landed = ptx::address_in(owner, &control_.landed);
#pragma unroll
        for (int i = 0; i < kUnitVectors; ++i) {
            const float* const d = &v[i / 4][i / 2 % 2][i % 2 * 4];
            const float4 four = {d[0], d[1], d[2], d[3]};
            if (owner == rank_)
                *reinterpret_cast<float4*>(own + i * 512) = four;
            else
                ptx::store_counted(to + i * 512, four, landed);
        }
    }

    /// Adds the units that this block owns in the order of the splits, a thread at most four dimensions of a head at a
    /// time, and stores them.
    template <int Splits>
    __device__ __forceinline__ void add_splits() const {
        constexpr int kCount = Splits >= 4 ? 16 / Splits : 4;
        constexpr int kItems = kUnitBytes / 4 / kCount;  ///< of a unit
        for (int i = static_cast<int>(threadIdx.x); i < kAllUnits / Splits * kItems; i += S::kMathThreads) {
            const int at = i % kItems * kCount;  // element of the unit
            const int vector = at / 128;
            const int lane = at / 4 % 32;
            const int of_block = vector / 4 * 16 + vector / 2 % 2 * 8 + lane / 4;
            const Combined<Splits> of_head = of_splits<Splits>(of_block);
            float sums[kCount] = {};
#pragma unroll
            for (int s = 0; s < Splits; ++s) {
                const auto* const from = reinterpret_cast<const float*>(landing(i / kItems, s)) + at;
                float landed[kCount];
                load(from, landed);
#pragma unroll
                for (int e = 0; e < kCount; ++e) sums[e] = fmaf(landed[e], of_head.factor[s], sums[e]);
            }
            const int h = first_head_ + of_block;
            const int unit = rank_ * (kAllUnits / Splits) + i / kItems;
            if (h < params_.heads)
                store<kCount>(unit / 2 * 64 + lane % 4 * 16 + unit % 2 * 8 + vector % 2 * 4 + at % 4, h, sums,
                              factor_of(of_head.all, sink_of(params_, h)));
        }
    }

    __device__ __forceinline__ static void load(const float* from, float (&v)[4]) {
        const auto four = *reinterpret_cast<const float4*>(from);
        v[0] = four.x, v[1] = four.y, v[2] = four.z, v[3] = four.w;
    }
    __device__ __forceinline__ static void load(const float* from, float (&v)[2]) {
        const auto two = *reinterpret_cast<const float2*>(from);
        v[0] = two.x, v[1] = two.y;
    }
    __device__ __forceinline__ static void load(const float* from, float (&v)[1]) { v[0] = *from; }

    const Params& params_;
    Control& control_;
    unsigned char* shared_;
    int token_, first_head_, rank_, group_, warp_, lane_;
};

}  // namespace tokamak::mla::cuda::direct_decode
