// SPDX-License-Identifier: Apache-2.0
// Sums of several splits: every block of the cluster owns some output tiles; the others push their part of them into
// its shared memory by bulk copies that count bytes on its barrier, and it adds them in the order of the splits.
#pragma once

#include "cuda/ptx/cluster.cuh"
#include "mla/cuda/sparse_decode/output.cuh"

namespace tokamak::mla::cuda::sparse_decode {

/// Who owns which tiles.
struct Ownership {
    int splits;
    [[nodiscard]] __host__ __device__ int owner(int tile) const { return tile * splits / kValueTiles; }
    [[nodiscard]] __host__ __device__ int first(int rank) const { return (kValueTiles * rank + splits - 1) / splits; }
    [[nodiscard]] __host__ __device__ int count(int rank) const { return first(rank + 1) - first(rank); }
};

template <int N>
class Exchange {
  public:
    static constexpr int kTileBytes = kSlabDims * N * 4;

    __device__ Exchange(const Params& params, Control<N>& control, unsigned char* shared, int rank, const Target& at)
        : params_(params), control_(control), shared_(shared), owns_{params.splits}, rank_(rank), at_(at) {}

    /// Puts the tiles of others where the copy engine takes them. Sums are final but for the other splits.
    __device__ void stage(const Sums<N>& sums) {
#pragma unroll
        for (int i = 0; i < kOwnTiles; ++i) {
            const int tile = 2 * i + at_.group;
            if (owns_.owner(tile) == rank_) continue;
            const std::uint32_t to = ptx::shared_address(staged(tile)) + thread() * 16;
#pragma unroll
            for (int q = 0; q < N / 8; ++q)
                store_shared(to + q * 2048,
                             {__float_as_uint(sums.tile[i][4 * q]), __float_as_uint(sums.tile[i][4 * q + 1]),
                              __float_as_uint(sums.tile[i][4 * q + 2]), __float_as_uint(sums.tile[i][4 * q + 3])});
        }
        ptx::fence_shared_async();
        ptx::named_barrier(kTileBarrier + at_.group, 128);
    }

    /// One thread per tile of this warpgroup starts the copy to the tile's owner.
    __device__ void push() {
        if (at_.group == 0 && thread() == 0)
            ptx::barrier_arrive_expect(&control_.landed, owns_.count(rank_) * (params_.splits - 1) * kTileBytes);
        if (thread() >= kOwnTiles) return;
        const int tile = 2 * thread() + at_.group;
        const int owner = owns_.owner(tile);
        if (owner == rank_) return;
        ptx::bulk_push(ptx::address_in(owner, landing(tile, owner, rank_)), staged(tile), kTileBytes,
                       ptx::address_in(owner, &control_.landed));
    }

    /// Adds and stores the tiles that this block owns.
    __device__ void finish(Sums<N>& sums) {
        ptx::barrier_wait(&control_.landed, 0);
#pragma unroll
        for (int i = 0; i < kOwnTiles; ++i) {
            const int tile = 2 * i + at_.group;
            if (owns_.owner(tile) != rank_) continue;
            add_splits(sums.tile[i], tile);
            ptx::named_barrier(kTileBarrier + at_.group, 128);  // the tile's landing space becomes the output's staging
            store_tile<N>(params_, at_, tile, sums.tile[i], ptx::shared_address(landing(tile, rank_, 0)));
        }
    }

  private:
    [[nodiscard]] __device__ int thread() const { return at_.warp * 32 + at_.lane; }

    /// Four elements at a time: there are no registers for a second tile.
    __device__ void add_splits(float (&tile_sums)[N / 2], int tile) {
        const std::uint32_t from = ptx::shared_address(landing(tile, rank_, 0)) + thread() * 16;
#pragma unroll
        for (int q = 0; q < N / 8; ++q) {
            float all[4] = {};
            std::uint32_t at = from + q * 2048;
            for (int source = 0; source < params_.splits; ++source) {
                if (source == rank_) {
#pragma unroll
                    for (int e = 0; e < 4; ++e) all[e] += tile_sums[4 * q + e];
                    continue;
                }
                const uint4 v = load_shared_16(at);
                at += kTileBytes;
                all[0] += __uint_as_float(v.x);
                all[1] += __uint_as_float(v.y);
                all[2] += __uint_as_float(v.z);
                all[3] += __uint_as_float(v.w);
            }
#pragma unroll
            for (int e = 0; e < 4; ++e) tile_sums[4 * q + e] = all[e];
        }
    }

    [[nodiscard]] __device__ unsigned char* staged(int tile) const {
        const int index = tile < owns_.first(rank_) ? tile : tile - owns_.count(rank_);
        return shared_ + index * kTileBytes;
    }
    /// Where `owner` takes its tile from `source`: one place for each source but itself, in order.
    [[nodiscard]] __device__ unsigned char* landing(int tile, int owner, int source) const {
        const int index = (tile - owns_.first(owner)) * (params_.splits - 1) + (source <= owner ? source : source - 1);
        return shared_ + params_.shared.landing + index * kTileBytes;
    }

    const Params& params_;
    Control<N>& control_;
    unsigned char* shared_;
    Ownership owns_;
    int rank_;
    Target at_;
};

}  // namespace tokamak::mla::cuda::sparse_decode
