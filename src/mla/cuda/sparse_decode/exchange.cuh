// SPDX-License-Identifier: Apache-2.0
// Sums of several splits: a part of the output, 16 dimensions by N heads, goes from the warp that has it to the split
// that owns it, by a bulk copy that is counted there; the owner adds the parts in the order of the splits. Parts travel
// in 16 bits, relative to their own split's reference; in f16 divided by a power of two that keeps them in its range.
#pragma once

#include <cuda_fp16.h>

#include "cuda/ptx/cluster.cuh"
#include "cuda/ptx/peer.cuh"
#include "mla/cuda/sparse_decode/pair.cuh"
#include "mla/cuda/sparse_decode/rows.cuh"

namespace tokamak::mla::cuda::sparse_decode {

inline constexpr int kParts = 32;
template <int N>
inline constexpr int kPartBytes = 16 * N * 2;

/// Parts that a split owns, from rank * params.owned_parts on.
__device__ __forceinline__ int parts_of(const Params& params, int rank) {
    const int left = kParts - rank * params.owned_parts;
    return left < params.owned_parts ? left : params.owned_parts;
}

/// Expects what the others will send; by the thread that initialised the barriers.
template <int N, typename Control>
__device__ __forceinline__ void expect_others(const Params& params, Control& control, int rank) {
    const int others = params.splits - 1;
    ptx::barrier_arrive_expect(&control.told, others * N * sizeof(float4));
    ptx::barrier_arrive_expect(&control.landed, others * parts_of(params, rank) * kPartBytes<N>);
}

/// Where parts wait for their copies, and where those of all splits land: addresses in the shared window, the same in
/// every block.
struct ExchangePlace {
    std::uint32_t staged, landing;
    std::uint64_t* landed;
};

template <int N, bool Half, bool Pair>
class Exchange {
  public:
    /// `weight_bits`: no weight is above 2^weight_bits.
    __device__ __forceinline__ Exchange(const Params& params, const ExchangePlace& place, int rank, int weight_bits)
        : params_(params), place_(place), rank_(rank) {
        // Values are below 2^15; a share has fewer rows than 2^(32 - leading zeros).
        const int columns = params.pools[0].top_k + params.pools[1].top_k;
        shift_ = weight_bits + 32 - __clz(over_splits(params, columns) + 8);
    }

    /// Puts a warp's part where the copy engine takes it, or, if it is this block's own, where the others' land.
    /// `sums`: rows are dimensions, columns heads. A fence and a barrier of the warp must follow.
    __device__ __forceinline__ void stage(const float (&sums)[N / 2], int part, int lane) const {
        const std::uint32_t to = place_of(part);
        const float factor = forth();
        std::uint32_t pairs[N / 4];
#pragma unroll
        for (int p = 0; p < N / 4; ++p) pairs[p] = pack_16bit<Half>(sums[2 * p] * factor, sums[2 * p + 1] * factor);
        store_fragment_transposed<N>(pairs, lane, [to](int h, int eight) { return to + offset(h, eight); });
    }

    /// Where this block's share of a part goes to for that.
    [[nodiscard]] __device__ __forceinline__ std::uint32_t place_of(int part) const {
        return owner_of(part) == rank_ ? landing(part, rank_) : staged(part);
    }

    /// Starts the copy of a part to its owner, whose landing place must be free; by one lane.
    __device__ __forceinline__ void push(int part) const {
        const int owner = owner_of(part);
        if (owner == rank_) return;
        const std::uint32_t rank = in_cluster<Pair>(owner);
        ptx::bulk_push(ptx::address_in(rank, landing(part, rank_)), staged(part), kPartBytes<N>,
                       ptx::address_in(rank, place_.landed));
    }

    /// Adds and stores the parts that this block owns, when all have landed; by `Threads` threads. factor(source, h) is
    /// what a split's part of a head is multiplied by.
    template <int Threads, typename Factor>
    __device__ __forceinline__ void finish(int token, int first_head, const Factor& factor) const {
        if (N * 2 * params_.owned_parts >= Threads)
            add_parts<4, Threads>(token, first_head, factor);
        else
            add_parts<1, Threads>(token, first_head, factor);
    }

    /// Where the first split's part of this block's part number `part` lands, and how far the next split's is.
    [[nodiscard]] __device__ __forceinline__ std::uint32_t landing_of(int part) const {
        return place_.landing + part * kPartBytes<N>;
    }
    [[nodiscard]] __device__ __forceinline__ std::uint32_t landing_step() const {
        return kPartBytes<N> * params_.owned_parts;
    }
    [[nodiscard]] __device__ __forceinline__ int first_dim() const { return rank_ * params_.owned_parts * 16; }
    [[nodiscard]] __device__ __forceinline__ int parts() const { return parts_of(params_, rank_); }
    /// What parts are multiplied by before they travel, and sums of them afterwards.
    [[nodiscard]] __device__ __forceinline__ float forth() const {
        return Half ? power_of(kUnitExponent - shift_) : 1.0F;
    }
    [[nodiscard]] __device__ __forceinline__ float back() const {
        return Half ? power_of(kUnitExponent + shift_) : 1.0F;
    }
    [[nodiscard]] __device__ __forceinline__ static float2 two_at(std::uint32_t at) {
        std::uint32_t twos[1];
        load(at, twos);
        return unpack(twos[0]);
    }
    /// Of eight dimensions of head h in a part; a warp's accesses touch every bank as often as any other.
    [[nodiscard]] __device__ __forceinline__ static std::uint32_t offset(int h, int eight) {
        return h * 32 + ((eight ^ (h >> 2 & 1)) << 4);
    }

    template <int Pairs>
    __device__ __forceinline__ void store(int token, int head, int dim, const float2 (&sums)[Pairs]) const {
        if (head >= params_.heads || dim >= params_.value_dim) return;
        const std::int64_t at = token * params_.out_token_stride + head * params_.out_head_stride + dim;
        if (params_.out_kind == OutKind::f32) {
#pragma unroll
            for (int p = 0; p < Pairs; ++p) {
                static_cast<float*>(params_.out)[at + 2 * p] = sums[p].x;
                static_cast<float*>(params_.out)[at + 2 * p + 1] = sums[p].y;
            }
            return;
        }
        std::uint32_t twos[Pairs];
#pragma unroll
        for (int p = 0; p < Pairs; ++p)
            twos[p] =
                params_.out_kind == OutKind::bf16 ? pack_bf16(sums[p].x, sums[p].y) : pack_f16(sums[p].x, sums[p].y);
        auto* const out = static_cast<std::uint16_t*>(params_.out) + at;
        if (!params_.out_vectors) {
#pragma unroll
            for (int e = 0; e < 2 * Pairs; ++e) out[e] = static_cast<std::uint16_t>(twos[e / 2] >> (e % 2 * 16));
        } else if constexpr (Pairs == 4) {
            *reinterpret_cast<uint4*>(out) = {twos[0], twos[1], twos[2], twos[3]};
        } else {
            *reinterpret_cast<std::uint32_t*>(out) = twos[0];
        }
    }

  private:
    [[nodiscard]] __device__ __forceinline__ std::uint32_t staged(int part) const {
        return place_.staged + part * kPartBytes<N>;
    }
    [[nodiscard]] __device__ __forceinline__ int owner_of(int part) const { return part * params_.part_magic >> 8; }
    [[nodiscard]] __device__ __forceinline__ std::uint32_t landing(int part, int source) const {
        return place_.landing + (part + (source - owner_of(part)) * params_.owned_parts) * kPartBytes<N>;
    }
    /// `Pairs` pairs of dimensions of a head at a time.
    template <int Pairs, int Threads, typename Factor>
    __device__ __forceinline__ void add_parts(int token, int first_head, const Factor& factor) const {
        constexpr int kItems = 8 / Pairs;  ///< of a head in a part
#pragma unroll 1
        for (int i = static_cast<int>(threadIdx.x); i < N * kItems * parts(); i += Threads) {
            const int part = i / (N * kItems);
            const int h = i / kItems % N;
            const int pair = i % kItems * Pairs;
            std::uint32_t at = landing_of(part) + offset(h, pair / 4) + pair % 4 * 4;
            float2 sums[Pairs] = {};
#pragma unroll(Pairs == 1 ? 8 : 2)
            for (int source = 0; source < params_.splits; ++source) {
                std::uint32_t twos[Pairs];
                load(at, twos);
                const float f = factor(source, h);
#pragma unroll
                for (int p = 0; p < Pairs; ++p) {
                    const float2 v = unpack(twos[p]);
                    sums[p].x = fmaf(v.x, f, sums[p].x);
                    sums[p].y = fmaf(v.y, f, sums[p].y);
                }
                at += landing_step();
            }
#pragma unroll
            for (int p = 0; p < Pairs; ++p) sums[p] = {sums[p].x * back(), sums[p].y * back()};
            store(token, first_head + h, first_dim() + part * 16 + pair * 2, sums);
        }
    }

    [[nodiscard]] __device__ __forceinline__ static float2 unpack(std::uint32_t two) {
        if constexpr (Half)
            return __half22float2(*reinterpret_cast<const __half2*>(&two));
        else
            return {__uint_as_float(two << 16), __uint_as_float(two & 0xFFFF0000U)};
    }

    __device__ __forceinline__ static void load(std::uint32_t at, std::uint32_t (&twos)[1]) {
        asm volatile("ld.shared.u32 %0, [%1];" : "=r"(twos[0]) : "r"(at) : "memory");
    }
    __device__ __forceinline__ static void load(std::uint32_t at, std::uint32_t (&twos)[4]) {
        const uint4 v = load_shared_16(at);
        twos[0] = v.x;
        twos[1] = v.y;
        twos[2] = v.z;
        twos[3] = v.w;
    }
    const Params& params_;
    ExchangePlace place_;
    int rank_;
    int shift_;
};

}  // namespace tokamak::mla::cuda::sparse_decode
