// SPDX-License-Identifier: Apache-2.0
// Sums of several splits: every block of the cluster owns some output tiles; the others push their part of them into
// its shared memory by bulk copies that count bytes on its barrier, and it adds them in the order of the splits. Parts
// travel as they are, relative to their own split's reference; the owner has the factors by the time they land.
#pragma once

#include "cuda/ptx/cluster.cuh"
#include "mla/cuda/sparse_decode/output.cuh"
#include "mla/cuda/sparse_decode/statistics.cuh"

namespace tokamak::mla::cuda::sparse_decode {

/// Who owns which tiles: each of the 2^shift splits as many as the others.
struct Ownership {
    int shift;
    [[nodiscard]] __device__ int owner(int tile) const { return tile >> (3 - shift); }
    [[nodiscard]] __device__ int first(int rank) const { return rank << (3 - shift); }
    [[nodiscard]] __device__ int count() const { return kValueTiles >> shift; }
};
static_assert(kValueTiles == 8);

/// A tile is four parts, one for each warp, so that a warp needs no other to send it.
template <int N>
inline constexpr int kTilePartBytes = 16 * N * 4;

/// Expects what the others will send; by the thread that initialised the barriers.
template <int N>
__device__ __forceinline__ void expect_others(const Params& params, Control<N>& control) {
    const int others = params.splits - 1;
    ptx::barrier_arrive_expect(&control.told, others * N * sizeof(float4));
    ptx::barrier_arrive_expect(&control.landed, others * Ownership{params.split_shift}.count() * 4 * kTilePartBytes<N>);
}

template <int Dim, int N, bool Pair>
class Exchange {
  public:
    __device__ Exchange(const Params& params, Control<N>& control, unsigned char* shared, int rank, const Target& at)
        : params_(params), control_(control), shared_(shared), owns_{params.split_shift}, rank_(rank), at_(at) {}

    /// Puts the tiles of others where the copy engine takes them. No block reads its ring any more.
    __device__ void stage(const Sums<N>& sums) {
#pragma unroll
        for (int i = 0; i < kOwnTiles; ++i) {
            const int tile = own_tile<Dim>(i, at_.group);
            if (owns_.owner(tile) == rank_) continue;
            const std::uint32_t to = ptx::shared_address(staged(tile)) + at_.lane * 16;
#pragma unroll
            for (int q = 0; q < N / 8; ++q)
                store_shared(to + q * 512,
                             {__float_as_uint(sums.tile[i][4 * q]), __float_as_uint(sums.tile[i][4 * q + 1]),
                              __float_as_uint(sums.tile[i][4 * q + 2]), __float_as_uint(sums.tile[i][4 * q + 3])});
        }
        ptx::fence_shared_async();
        __syncwarp();
    }

    /// A lane per tile of this warp starts the copy to the tile's owner, whose landing space must be free.
    __device__ void push() {
        if (at_.lane >= kOwnTiles) return;
        const int tile = own_tile<Dim>(at_.lane, at_.group);
        const int owner = owns_.owner(tile);
        if (owner == rank_) return;
        ptx::bulk_push(ptx::address_in(in_cluster<Pair>(owner), landing(tile, owner, rank_)), staged(tile),
                       kTilePartBytes<N>, ptx::address_in(in_cluster<Pair>(owner), &control_.landed));
    }

    /// Adds and stores the tiles that this block owns, when they have landed and `splits` holds the factors. With few
    /// heads, one loop over tiles in which own sums are picked by selection: this code runs once, and what it costs is
    /// being fetched.
    __device__ void finish(Sums<N>& sums, const SplitSums<N>* splits) {
#pragma unroll(N <= 16 ? 1 : kOwnTiles)
        for (int i = 0; i < kOwnTiles; ++i) {
            const int tile = own_tile<Dim>(i, at_.group);
            if (owns_.owner(tile) != rank_) continue;
            float tile_sums[N / 2];
#pragma unroll
            for (int e = 0; e < N / 2; ++e)
                tile_sums[e] =
                    i < 2 ? (i == 0 ? sums.tile[0][e] : sums.tile[1][e]) : (i == 2 ? sums.tile[2][e] : sums.tile[3][e]);
            add_splits(tile_sums, tile, splits);
            ptx::named_barrier(kTileBarrier + at_.group, 128);  // the tile's landing space becomes the output's staging
            store_tile<N>(params_, at_, tile, tile_sums,
                          ptx::shared_address(shared_ + params_.shared.landing +
                                              (tile - owns_.first(rank_)) * (params_.splits - 1) * kTileBytes));
        }
    }

  private:
    static constexpr int kTileBytes = 4 * kTilePartBytes<N>;
    static constexpr int kAddedAtOnce = N == 8 ? 1 : 2;  ///< groups of eight columns; more would not fit the registers

    /// own = sum over splits of factor * part, in their order.
    __device__ void add_splits(float (&own)[N / 2], int tile, const SplitSums<N>* splits) {
        const std::uint32_t from = ptx::shared_address(landing(tile, rank_, 0)) + at_.lane * 16;
#pragma unroll
        for (int first = 0; first < N / 8; first += kAddedAtOnce) {
            float all[4 * kAddedAtOnce] = {};
            std::uint32_t at = from + first * 512;
#pragma unroll 1
            for (int source = 0; source < params_.splits; ++source) {
#pragma unroll
                for (int q = 0; q < kAddedAtOnce; ++q)
                    add_part(all + 4 * q, source == rank_, own + 4 * (first + q), at + q * 512,
                             &splits[source].head[8 * (first + q) + 2 * (at_.lane & 3)]);
                if (source != rank_) at += kTileBytes;
            }
#pragma unroll
            for (int e = 0; e < 4 * kAddedAtOnce; ++e) own[4 * first + e] = all[e];
        }
    }

    __device__ __forceinline__ static void add_part(float* all, bool is_own, const float* own, std::uint32_t landed,
                                                    const float4* factors) {
        const float even = factors[0].x;
        const float odd = factors[1].x;
        float part[4] = {own[0], own[1], own[2], own[3]};
        if (!is_own) {
            const uint4 v = load_shared_16(landed);
            part[0] = __uint_as_float(v.x);
            part[1] = __uint_as_float(v.y);
            part[2] = __uint_as_float(v.z);
            part[3] = __uint_as_float(v.w);
        }
        all[0] = fmaf(part[0], even, all[0]);
        all[1] = fmaf(part[1], odd, all[1]);
        all[2] = fmaf(part[2], even, all[2]);
        all[3] = fmaf(part[3], odd, all[3]);
    }

    [[nodiscard]] __device__ unsigned char* staged(int tile) const {
        const int index = tile < owns_.first(rank_) ? tile : tile - owns_.count();
        return shared_ + index * kTileBytes + at_.warp * kTilePartBytes<N>;
    }
    /// Where `owner` takes this warp's part of its tile from `source`: one place for each source but itself, in order.
    [[nodiscard]] __device__ unsigned char* landing(int tile, int owner, int source) const {
        const int index = (tile - owns_.first(owner)) * (params_.splits - 1) + (source <= owner ? source : source - 1);
        return shared_ + params_.shared.landing + index * kTileBytes + at_.warp * kTilePartBytes<N>;
    }

    const Params& params_;
    Control<N>& control_;
    unsigned char* shared_;
    Ownership owns_;
    int rank_;
    Target at_;
};

}  // namespace tokamak::mla::cuda::sparse_decode
