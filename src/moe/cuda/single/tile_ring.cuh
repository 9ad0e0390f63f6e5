// SPDX-License-Identifier: Apache-2.0
// A warp's private ring: its gate/up tiles and, without a break, its down tiles.
#pragma once

#include <cstdint>

#include "cuda/decode/half_tile_n8.cuh"
#include "cuda/ptx/barrier.cuh"
#include "cuda/ptx/copy.cuh"
#include "cuda/ptx/gather.cuh"
#include "moe/cuda/single/phase.cuh"

namespace tokamak::moe::cuda {

namespace ptx = tokamak::cuda::ptx;

struct ArrivedTile {
    const std::uint8_t* weights;
    const float* scales;  ///< of rows g and g + 8, for formats whose strips end with them
};

template <class Tile>
class TileRing {
  public:
    static constexpr int kBytes = Tile::kBytes * Tile::kPieces;

    __device__ TileRing(const SingleArgs& args, std::uint8_t* shared, int warp, int lane)
        : slots_(shared + warp * args.slots * kBytes),
          scales_(shared + args.parts.scales + warp * args.slots * 8),
          barriers_(reinterpret_cast<std::uint64_t*>(shared + args.parts.barriers) + warp * args.slots),
          count_(args.slots),
          lane_(lane) {
        if (lane < count_) ptx::barrier_init(&barriers_[lane], Tile::kStripScales ? 2 : 1);
        ptx::fence_barrier_init();
        __syncwarp();
    }

    /// Finds the first tile of the lane's slot, which needs no ids.
    __device__ __forceinline__ void plan(const Phase<false>& gate_up, const Phase<true>& down, int warp) {
        gate_up_first_ = gate_up.warp_first(warp);
        gate_up_count_ = gate_up.warp_count(warp);
        down_first_ = down.warp_first(warp);
        total_ = gate_up_count_ + down.warp_count(warp);
        planned_ = locate(gate_up, down, lane_);
    }
    /// Fills the empty ring, a lane for each slot. `experts` is the warp's table.
    __device__ __forceinline__ void prime(const int* experts) {
        experts_ = experts;
        if (lane_ < min(count_, total_)) copy(planned_, lane_);
        next_ = count_;
        __syncwarp();
    }
    __device__ ArrivedTile wait() const {
        ptx::barrier_wait(&barriers_[slot_], parity_);
        return {slots_ + slot_ * kBytes, reinterpret_cast<const float*>(scales_ + slot_ * 8)};
    }
    /// Call by all lanes when the slot has been read.
    __device__ void release(const Phase<false>& gate_up, const Phase<true>& down) {
        __syncwarp();
        if (lane_ == 0 && next_ < total_) copy(locate(gate_up, down, next_), slot_);
        ++next_;
        if (++slot_ == count_) {
            slot_ = 0;
            parity_ ^= 1;
        }
    }

  private:
    /// Where a tile would be if its route went to expert 0.
    struct Place {
        const std::uint8_t* tile = nullptr;
        const std::uint8_t* scales = nullptr;
        std::int64_t expert_bytes = 0;
        int route = 0;
    };

    /// The warp's tile `index` of both phases.
    __device__ __forceinline__ Place locate(const Phase<false>& gate_up, const Phase<true>& down, int index) const {
        return index < gate_up_count_ ? locate(gate_up, gate_up_first_ + index)
                                      : locate(down, down_first_ + index - gate_up_count_);
    }
    template <bool Down>
    __device__ __forceinline__ static Place locate(const Phase<Down>& phase, int piece) {
        const DecodeMatrix& matrix = phase.matrix();
        const int strip = phase.strip_of(piece);
        const int tile = piece - strip * matrix.tiles;
        Place place;
        place.route = phase.route_of(strip);
        place.expert_bytes = matrix.expert_bytes;
        const std::uint8_t* const begin = matrix.packed + (strip - place.route * matrix.strips) * matrix.strip_bytes;
        place.tile = begin + tile * kBytes;
        if constexpr (Tile::kStripScales) place.scales = begin + matrix.tiles * kBytes + tile * 8;
        return place;
    }
    __device__ __forceinline__ void copy(const Place& place, int slot) {
        const std::int64_t expert = experts_[place.route] * place.expert_bytes;
        if constexpr (Tile::kStripScales) {
            ptx::copy_small<8>(ptx::shared_address(scales_ + slot * 8), place.scales + expert, true);
            ptx::copy_arrive(&barriers_[slot]);
        }
        ptx::barrier_arrive_expect(&barriers_[slot], kBytes);
        ptx::bulk_copy_once(slots_ + slot * kBytes, place.tile + expert, kBytes, &barriers_[slot]);
    }

    std::uint8_t* slots_;
    std::uint8_t* scales_;
    std::uint64_t* barriers_;
    int count_;
    int lane_;
    const int* experts_ = nullptr;
    Place planned_ = {};
    int gate_up_first_ = 0;
    int gate_up_count_ = 0;
    int down_first_ = 0;
    int total_ = 0;
    int next_ = 0;
    int slot_ = 0;
    std::uint32_t parity_ = 0;
};

}  // namespace tokamak::moe::cuda
