// SPDX-License-Identifier: Apache-2.0
// What a warp loads: of each unit of its CTA every eighth tile, with the activations that meet it, into a ring of its
// own that runs on across units.
#pragma once

#include <cstdint>

#include "cuda/ptx/copy.cuh"
#include "cuda/ptx/gather.cuh"
#include "moe/cuda/routed/lists.cuh"
#include "moe/cuda/routed/stage.cuh"
#include "moe/cuda/stage_ring.cuh"

namespace tokamak::moe::cuda::routed {

/// One strip of one expert times one tile of its routes.
struct Unit {
    RowTile tile;
    int strip;
};

/// The (row tile, strip) pairs are numbered tile by tile; a CTA takes a contiguous range of them.
class UnitWalk {
  public:
    __device__ UnitWalk(const Lists& lists, int strips) : lists_(lists), strips_(strips) {
        const std::int64_t total = static_cast<std::int64_t>(lists.tile_count()) * strips;
        const std::int64_t first = total * blockIdx.x / gridDim.x;
        left_ = static_cast<int>(total * (blockIdx.x + 1) / gridDim.x - first);
        tile_ = static_cast<int>(first / strips);
        strip_ = static_cast<int>(first % strips);
    }
    __device__ bool next(Unit& unit) {
        if (left_ == 0) return false;
        --left_;
        unit = {lists_.tiles[tile_], strip_};
        if (++strip_ == strips_) {
            strip_ = 0;
            ++tile_;
        }
        return true;
    }

  private:
    const Lists& lists_;
    int strips_;
    int left_;
    int tile_;
    int strip_;
};

template <class Weights>
class Loader {
  public:
    using Stage = StageLayout<Weights>;

    __device__ Loader(const Args& args, const Lists& lists, std::int64_t first_token, int warp, int lane)
        : args_(args), lists_(lists), walk_(lists, args.strips), first_token_(first_token), warp_(warp), lane_(lane) {
        next_unit();
    }

    /// Starts the next tile, if there is one; always one group of copies.
    __device__ __forceinline__ void issue(std::uint8_t* stage, std::uint64_t* barrier) {
        if (live_) {
            load_tile(stage, barrier);
            load_rows_of_unit(stage);
            k_ += kWarps;
            if (k_ >= args_.tiles) next_unit();
        }
        ptx::copy_commit();
    }

  private:
    __device__ __forceinline__ void next_unit() {
        k_ = warp_;
        live_ = walk_.next(unit_) && warp_ < args_.tiles;
    }

    __device__ __forceinline__ void load_tile(std::uint8_t* stage, std::uint64_t* barrier) const {
        if (lane_ != 0) return;
        const std::uint8_t* const strip =
            args_.packed + unit_.tile.expert * args_.expert_bytes + unit_.strip * args_.strip_bytes;
        ptx::barrier_arrive_expect(barrier, Weights::kTileBytes);
        ptx::bulk_copy(stage, strip + static_cast<std::int64_t>(k_) * Weights::kTileBytes, Weights::kTileBytes,
                       barrier);
        if constexpr (Weights::kStripScales)
            ptx::copy_small<8>(ptx::shared_address(stage + Stage::kScalesOffset),
                               strip + static_cast<std::int64_t>(args_.tiles) * Weights::kTileBytes + k_ * 8, true);
    }

    __device__ __forceinline__ void load_rows_of_unit(std::uint8_t* stage) const {
        constexpr int chunks = Weights::kTileCols / 8;
        const int first_col = k_ * Weights::kTileCols;
        for (int i = lane_; i < unit_.tile.rows * chunks; i += 32) {
            const int row = i / chunks;
            const int col = first_col + i % chunks * 8;
            const unsigned route = lists_.list[unit_.tile.first + row];
            const auto* const from = static_cast<const std::uint16_t*>(args_.x) +
                                     (first_token_ + args_.by_top_k.quotient(route)) * args_.x_stride + col;
            std::uint8_t* const to = stage + Stage::chunk_offset(row, i % chunks);
            if (args_.x_vectors)
                ptx::copy_16(ptx::shared_address(to), from, col < args_.cols);
            else
                copy_elements(to, from, args_.cols - col);
        }
    }

    /// Eight elements of a row that is not aligned, zeros behind its end.
    __device__ static void copy_elements(std::uint8_t* to, const std::uint16_t* from, int left) {
#pragma unroll 1
        for (int i = 0; i < 8; ++i) reinterpret_cast<std::uint16_t*>(to)[i] = i < left ? from[i] : 0;
    }

    const Args& args_;
    const Lists& lists_;
    UnitWalk walk_;
    Unit unit_{};
    std::int64_t first_token_;
    int warp_;
    int lane_;
    int k_ = 0;
    bool live_ = false;
};

}  // namespace tokamak::moe::cuda::routed
