// SPDX-License-Identifier: Apache-2.0
// Sums of several splits: each owns some tiles of 64 dimensions and gets these from the others by bulk copies, in bf16
// and relative to their own split's references; it adds them in the order of the splits.
#pragma once

#include "cuda/ptx/copy.cuh"
#include "cuda/ptx/peer.cuh"
#include "mla/cuda/paired_decode/finish.cuh"

namespace tokamak::mla::cuda::paired_decode {

template <int Dim>
class Merge {
    using S = PairedShape<Dim>;
    static constexpr std::uint32_t kTileBytes = kHeads * 128;
    static constexpr std::uint32_t kWarpBytes = 16 * 128;  ///< of a warp in a tile

  public:
    __device__ __forceinline__ Merge(const Params& params, PairedControl& control, unsigned char* shared, int rank)
        : params_(params),
          control_(control),
          base_(ptx::shared_address(shared)),
          splits_(reinterpret_cast<SplitSums<kHeads>*>(shared + kSums)),
          rank_(rank),
          owned_((kValueTiles + params.splits - 1) / params.splits) {}

    /// What the others will send; by the thread that makes the barriers.
    __device__ __forceinline__ void expect() const {
        const int tiles = max(0, min(owned_, kValueTiles - rank_ * owned_));
        const int others = params_.splits - 1;
        ptx::barrier_arrive_expect(&control_.told, others * kHeads * sizeof(float4));
        ptx::barrier_arrive_expect(&control_.landed, others * tiles * kTileBytes);
    }

    /// Puts a warp's sums where the copy engine takes them: tiles where queries were.
    __device__ __forceinline__ void stage(const float (&sums)[128], int side, int warp, int lane) const {
#pragma unroll
        for (int i = 0; i < 16; ++i) {
            const std::uint32_t four[4] = {pack_bf16(sums[8 * i], sums[8 * i + 1]),
                                           pack_bf16(sums[8 * i + 2], sums[8 * i + 3]),
                                           pack_bf16(sums[8 * i + 4], sums[8 * i + 5]),
                                           pack_bf16(sums[8 * i + 6], sums[8 * i + 7])};
            store_matrix(staged(side * kHalfSlabs + i / 4) +
                             swizzled(warp * 16 + lane % 16, i % 4 * 2 + lane / 16),
                         four);
        }
        ptx::fence_shared_async();
        __syncwarp();
    }
    /// Behind the cluster's barrier: nobody reads rows any more.
    __device__ __forceinline__ void push(int side, int warp) const {
        if (!ptx::elect_lane()) return;
#pragma unroll
        for (int i = 0; i < kHalfSlabs; ++i) {
            const int tile = side * kHalfSlabs + i;
            const int owner = tile / owned_;
            if (owner == rank_) continue;
            ptx::bulk_push(ptx::address_in(owner, landing(tile, rank_) + warp * kWarpBytes),
                           staged(tile) + warp * kWarpBytes, kWarpBytes,
                           ptx::address_in(owner, ptx::shared_address(&control_.landed)));
        }
    }

    /// Tells all splits a head's sums, by its thread; then its factors, behind what the others told.
    __device__ __forceinline__ void tell(int h, const HeadSums& own) const {
        const float4 sums = {own.reference, own.sum, own.top, 0.0F};
        splits_[rank_].head[h] = sums;
        for (int r = 0; r < params_.splits; ++r)
            if (r != rank_)
                ptx::store_counted(ptx::address_in(r, &splits_[rank_].head[h]), sums,
                                   ptx::address_in(r, &control_.told));
    }
    __device__ __forceinline__ HeadSums factors(int h, float sink) const {
        ptx::barrier_wait(&control_.told, 0);
        return merge_sums(splits_, params_.splits, h, sink);
    }

    /// Adds the tiles that this split owns, by all threads of mathematics.
    __device__ __forceinline__ void await() const { ptx::barrier_wait(&control_.landed, 0); }
    __device__ __forceinline__ void add(int token, int first_head, int thread) const {
        const int last = min(owned_, kValueTiles - rank_ * owned_) * (kHeads * 8);
        for (int i = thread; i < last; i += kTurnThreads) {
            const int tile = rank_ * owned_ + i / (kHeads * 8);
            const int h = i / 8 % kHeads;
            float sums[8] = {};
#pragma unroll 2
            for (int source = 0; source < params_.splits; ++source) {
                const std::uint32_t at = source == rank_ ? staged(tile) : landing(tile, source);
                const uint4 v = load_shared_16(at + swizzled(h, i % 8));
                const float f = splits_[source].head[h].x;
                const std::uint32_t words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
                for (int w = 0; w < 4; ++w) {
                    sums[2 * w] = fmaf(__uint_as_float(words[w] << 16), f, sums[2 * w]);
                    sums[2 * w + 1] = fmaf(__uint_as_float(words[w] & 0xFFFF0000U), f, sums[2 * w + 1]);
                }
            }
            store_eight(params_, token, first_head + h, tile * kSlabDims + i % 8 * 8, sums);
        }
    }

  private:
    static constexpr std::uint32_t kSums = S::kRows + 2 * kValueTiles * kTileBytes;

    [[nodiscard]] __device__ __forceinline__ std::uint32_t staged(int tile) const { return base_ + tile * kTileBytes; }
    [[nodiscard]] __device__ __forceinline__ std::uint32_t landing(int tile, int source) const {
        return base_ + S::kRows + (source * owned_ + tile % owned_) * kTileBytes;
    }

    const Params& params_;
    PairedControl& control_;
    std::uint32_t base_;
    SplitSums<kHeads>* splits_;
    int rank_, owned_;
};

}  // namespace tokamak::mla::cuda::paired_decode
