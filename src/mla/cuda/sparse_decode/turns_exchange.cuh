// SPDX-License-Identifier: Apache-2.0
// Sums of several splits where heads are rows; see exchange.cuh, whose places and order of addition these are.
#pragma once

#include "mla/cuda/sparse_decode/exchange.cuh"
#include "mla/cuda/sparse_decode/turns_output.cuh"

namespace tokamak::mla::cuda::sparse_decode {

class TurnExchange {
  public:
    __device__ TurnExchange(const Params& params, TurnControl& control, unsigned char* shared, int rank,
                            const Target& at)
        : params_(params), control_(control), shared_(shared), owns_{params.split_shift}, rank_(rank), at_(at) {}

    /// Puts the tiles of others where the copy engine takes them. No block reads its ring any more.
    __device__ void stage(const float (&out)[32][4]) {
#pragma unroll
        for (int i = 0; i < kOwnTiles; ++i) {
            const int tile = turn_tile(at_.group, i);
            if (owns_.owner(tile) == rank_) continue;
            const std::uint32_t to = ptx::shared_address(staged(tile)) + at_.lane * 16;
#pragma unroll
            for (int g = 0; g < 8; ++g)
                store_shared(to + g * 512, {__float_as_uint(out[8 * i + g][0]), __float_as_uint(out[8 * i + g][1]),
                                            __float_as_uint(out[8 * i + g][2]), __float_as_uint(out[8 * i + g][3])});
        }
        ptx::fence_shared_async();
        __syncwarp();
    }

    /// A lane per tile of this warp starts the copy to the tile's owner, whose landing space must be free.
    __device__ void push() {
        if (at_.lane >= kOwnTiles) return;
        const int tile = turn_tile(at_.group, at_.lane);
        const int owner = owns_.owner(tile);
        if (owner == rank_) return;
        unsigned char* const to = shared_ + landing_part<kTurnHeads>(params_, owns_, tile, owner, rank_, at_.warp);
        ptx::bulk_push(ptx::address_in(owner, to), staged(tile), kTilePartBytes<kTurnHeads>,
                       ptx::address_in(owner, &control_.landed));
    }

    /// Adds and stores the tiles that this block owns, when they have landed and `splits` holds the factors.
    __device__ void finish(float (&out)[32][4], const SplitSums<kTurnHeads>* splits) {
#pragma unroll
        for (int i = 0; i < kOwnTiles; ++i) {
            const int tile = turn_tile(at_.group, i);
            if (owns_.owner(tile) != rank_) continue;
            add_splits(out, i, tile, splits);
            __syncwarp();  // the landed part becomes the output's staging
            const std::uint32_t staging =
                ptx::shared_address(shared_ + landing_part<kTurnHeads>(params_, owns_, tile, rank_, 0, at_.warp));
            store_turn_tile(params_, at_, tile, out, i, staging);
        }
    }

  private:
    /// out = sum over splits of factor * part, in their order.
    __device__ void add_splits(float (&out)[32][4], int i, int tile, const SplitSums<kTurnHeads>* splits) {
        const int h = at_.warp * 16 + at_.lane / 4;
        float all[8][4] = {};
#pragma unroll 1
        for (int source = 0; source < params_.splits; ++source) {
            const float low = splits[source].head[h].x;
            const float high = splits[source].head[h + 8].x;
            const std::uint32_t from =
                ptx::shared_address(shared_ + landing_part<kTurnHeads>(params_, owns_, tile, rank_, source, at_.warp)) +
                at_.lane * 16;
#pragma unroll
            for (int g = 0; g < 8; ++g) {
                const float(&own)[4] = out[8 * i + g];
                float part[4] = {own[0], own[1], own[2], own[3]};
                if (source != rank_) {
                    const uint4 v = load_shared_16(from + g * 512);
                    part[0] = __uint_as_float(v.x);
                    part[1] = __uint_as_float(v.y);
                    part[2] = __uint_as_float(v.z);
                    part[3] = __uint_as_float(v.w);
                }
                all[g][0] = fmaf(part[0], low, all[g][0]);
                all[g][1] = fmaf(part[1], low, all[g][1]);
                all[g][2] = fmaf(part[2], high, all[g][2]);
                all[g][3] = fmaf(part[3], high, all[g][3]);
            }
        }
#pragma unroll
        for (int g = 0; g < 8; ++g)
#pragma unroll
            for (int e = 0; e < 4; ++e) out[8 * i + g][e] = all[g][e];
    }

    [[nodiscard]] __device__ unsigned char* staged(int tile) const {
        return shared_ + staged_part<kTurnHeads>(owns_, rank_, tile, at_.warp);
    }

    const Params& params_;
    TurnControl& control_;
    unsigned char* shared_;
    Ownership owns_;
    int rank_;
    Target at_;
};

}  // namespace tokamak::mla::cuda::sparse_decode
