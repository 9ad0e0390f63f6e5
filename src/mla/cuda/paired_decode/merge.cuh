// SPDX-License-Identifier: Apache-2.0
// Sums of several splits: each owns some parts of the output, 8 heads by 64 dimensions, and gets these from the others
// by bulk copies, in bf16 and relative to their own split's references; it adds them in the order of the splits.
#pragma once

#include "cuda/ptx/copy.cuh"
#include "mla/cuda/paired_decode/finish.cuh"
#include "mla/cuda/sparse_decode/exchange.cuh"

namespace tokamak::mla::cuda::paired_decode {

inline constexpr int kMostSplits = 6;  ///< that a configuration has

template <int Dim>
class Merge {
    using S = PairedShape<Dim>;
    static constexpr int kParts = kHeads / 8 * kValueTiles;
    static constexpr std::uint32_t kBytes = 8 * 128;  ///< of a part

  public:
    __device__ __forceinline__ Merge(const Params& params, PairedControl& control, unsigned char* shared, int rank)
        : params_(params),
          control_(control),
          base_(ptx::shared_address(shared)),
          splits_(reinterpret_cast<SplitSums<kHeads>*>(shared + S::kSplitSums)),
          rank_(rank) {}

    /// What the others will send; by the thread that makes the barriers.
    __device__ __forceinline__ void expect() const {
        const int others = params_.splits - 1;
        ptx::barrier_arrive_expect(&control_.told, others * kHeads * sizeof(float4));
        ptx::barrier_arrive_expect(&control_.landed, others * parts() * kBytes);
    }

    /// Puts a warp's sums of a tile where the copy engine takes them: in the first buffer, in the half that only its
    /// own warpgroup still reads. What is this block's own goes where the others' land, which must be free.
    __device__ __forceinline__ void stage(const float* sums, int side, int tile, int warp, int lane) const {
        const int part = part_of(side, tile, warp) + lane / 8 % 2;  // of the row whose address this lane gives
        const std::uint32_t to = owner_of(part) == rank_ ? landing(part, rank_) : staged(part);
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            const float* const eight = sums + 8 * j;
            const std::uint32_t four[4] = {pack_bf16(eight[0], eight[1]), pack_bf16(eight[2], eight[3]),
                                           pack_bf16(eight[4], eight[5]), pack_bf16(eight[6], eight[7])};
            store_matrix(to + swizzled(lane % 8, 2 * j + lane / 16), four);
        }
    }
    /// Brings them to their owners; two parts side by side are one copy, if they have the same one.
    __device__ __forceinline__ void push(int side, int tile, int warp) const {
        const int part = part_of(side, tile, warp);
        if (owner_of(part) == owner_of(part + 1)) return push(part, 2 * kBytes);
        push(part, kBytes);
        push(part + 1, kBytes);
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
    [[nodiscard]] __device__ __forceinline__ HeadSums factors(int h, float sink) const {
        ptx::barrier_wait(&control_.told, 0);
        return merge_sums(splits_, params_.splits, h, sink);
    }

    __device__ __forceinline__ void await() const { ptx::barrier_wait(&control_.landed, 0); }
    /// Adds the parts that this split owns, eight dimensions of a head at a time; by all threads of the block.
    __device__ __forceinline__ void add(int token, int first_head, int thread) const {
        const int items = parts() * 64;
#pragma unroll 1
        for (int i = thread; i < items; i += kPairedThreads) {
            const int part = rank_ * params_.owned_parts + i / 64;
            const int h = part % 8 * 8 + i / 8 % 8;
            const std::uint32_t at = landing(part, 0) + swizzled(i / 8 % 8, i % 8);
            uint4 eights[kMostSplits] = {};
            float factors[kMostSplits] = {};
#pragma unroll
            for (int source = 0; source < kMostSplits; ++source) {
                if (source >= params_.splits) break;
                eights[source] = load_shared_16(at + source * params_.owned_parts * kBytes);
                factors[source] = splits_[source].head[h].x;
            }
            float sums[8] = {};
#pragma unroll
            for (int source = 0; source < kMostSplits; ++source) {
                const uint4& v = eights[source];
                const float f = factors[source];
                const std::uint32_t words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
                for (int w = 0; w < 4; ++w) {
                    sums[2 * w] = fmaf(__uint_as_float(words[w] << 16), f, sums[2 * w]);
                    sums[2 * w + 1] = fmaf(__uint_as_float(words[w] & 0xFFFF0000U), f, sums[2 * w + 1]);
                }
            }
            store_eight(params_, token, first_head + h, part / 8 * kSlabDims + i % 8 * 8, sums);
        }
    }

  private:
    /// Of a tile of a side, the first part of a warp: eight heads by 64 dimensions.
    [[nodiscard]] __device__ __forceinline__ static int part_of(int side, int tile, int warp) {
        return ((side * kHalfSlabs + tile) * 4 + warp) * 2;
    }
    [[nodiscard]] __device__ __forceinline__ int owner_of(int part) const { return part * params_.part_magic >> 12; }
    /// That this split owns: the last one has what is left.
    [[nodiscard]] __device__ __forceinline__ int parts() const {
        return max(0, min(params_.owned_parts, kParts - rank_ * params_.owned_parts));
    }
    [[nodiscard]] __device__ __forceinline__ std::uint32_t staged(int part) const {
        return base_ + S::slab(0, 0) + part * kBytes;
    }
    [[nodiscard]] __device__ __forceinline__ std::uint32_t landing(int part, int source) const {
        return base_ + S::kQueries + (part + (source - owner_of(part)) * params_.owned_parts) * kBytes;
    }
    __device__ __forceinline__ void push(int part, std::uint32_t bytes) const {
        const int owner = owner_of(part);
        if (owner != rank_ && ptx::elect_lane())
            ptx::bulk_push(ptx::address_in(owner, landing(part, rank_)), staged(part), bytes,
                           ptx::address_in(owner, ptx::shared_address(&control_.landed)));
        __syncwarp();
    }

    const Params& params_;
    PairedControl& control_;
    std::uint32_t base_;
    SplitSums<kHeads>* splits_;
    int rank_;
};

}  // namespace tokamak::mla::cuda::paired_decode
