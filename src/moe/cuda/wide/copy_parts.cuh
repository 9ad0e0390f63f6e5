// SPDX-License-Identifier: Apache-2.0
// Copies of weights up to 64 rows of an expert: consumers issue in nearly every cycle there, and of four schedulers one
// has the warp that copies weights besides. So its loop is cut where it would have to ask what comes, and a unit with
// all the strips that there can be has its copies without a branch between them.
#pragma once

#include <cstdint>

#include "moe/cuda/wide/ring.cuh"

namespace tokamak::moe::cuda {

/// The way of the warp that copies weights through the ring, as shared addresses.
template <class Shape>
class WidePartFeed {
  public:
    __device__ __forceinline__ explicit WidePartFeed(const StageRing<Shape>& ring)
        : memory_(ptx::shared_address(ring.memory)),
          full_(ptx::shared_address(ring.full)),
          end_(static_cast<std::uint32_t>(ring.stages) * 8) {
        asm volatile("" : "+r"(memory_), "+r"(full_), "+r"(end_));  // else made once more for each stage
    }
    /// Until consumers have given the stage back.
    __device__ __forceinline__ void await() const { ptx::barrier_wait(full_ + end_ + place_, parity_); }
    [[nodiscard]] __device__ __forceinline__ std::uint32_t full() const { return full_ + place_; }
    [[nodiscard]] __device__ __forceinline__ std::uint32_t stage() const {
        return memory_ + place_ * (Shape::kStageBytes / 8);
    }
    __device__ __forceinline__ void advance() { advance_place(place_, parity_, end_); }

  private:
    std::uint32_t memory_;
    std::uint32_t full_;
    std::uint32_t end_;
    std::uint32_t place_ = 0;   ///< eight times its slot
    std::uint32_t parity_ = 1;  ///< of the phase before the first
};

/// The strips of a unit over some stages, by a whole warp. Whole: as many as a unit can have.
template <class Shape, bool Whole>
__device__ __forceinline__ void copy_stages(WidePartFeed<Shape>& feed, const std::uint8_t*& source,
                                            std::int64_t strip_bytes, int count, int stages, std::uint32_t bytes,
                                            std::uint64_t policy) {
    constexpr int most = Shape::kStrips;
#pragma unroll 1
    for (; stages > 0; --stages) {
        const std::uint32_t full = feed.full();
        const std::uint32_t to = feed.stage();
        feed.await();
        if (ptx::elect_lane()) {
            ptx::barrier_arrive_expect(full, bytes * static_cast<std::uint32_t>(Whole ? most : count));
            const std::uint8_t* from = source;
#pragma unroll
            for (int strip = 0; strip < most; ++strip) {
                if (!Whole && strip >= count) break;
                ptx::bulk_copy(to + strip * Shape::Weights::kStripStageBytes, from, bytes, full, policy);
                from += strip_bytes;
                asm volatile("" : "+l"(from));
            }
        }
        source += bytes;
        feed.advance();
    }
}

/// copy_wide_weights for CTAs of their own.
template <class Shape>
__device__ __forceinline__ void copy_part_weights(WidePartFeed<Shape>& feed, const WideTables& tables,
                                                  const WideDeals& deals, int& turn, const DecodeMatrix& matrix,
                                                  bool down) {
    using Weights = typename Shape::Weights;
    constexpr int stage_tiles = Shape::kBlocks / Weights::kTileBlocks;
    constexpr std::uint32_t stage_bytes = Weights::kStripStageBytes;
    static_assert(!Shape::kPairs);
    const int whole = matrix.tiles / stage_tiles;
    const bool leader = threadIdx.x % 32 == 0;
    const std::uint64_t policy = ptx::copy_policy(tables.facts->several == 0);
    WideWalk<Shape> walk(tables, deals, matrix, down);
    if (leader) walk.ask();
    const int ask_at = max(0, whole - kWideAskAhead);
    while (const WideUnit* const next = walk.deal_next(turn)) {
        const int strips = next->strips;
        const std::uint8_t* source =
            matrix.packed + next->expert * matrix.expert_bytes + next->strip * matrix.strip_bytes;
        const auto copy = [&](int stages) {
            if (strips == Shape::kStrips)
                copy_stages<Shape, true>(feed, source, matrix.strip_bytes, strips, stages, stage_bytes, policy);
            else
                copy_stages<Shape, false>(feed, source, matrix.strip_bytes, strips, stages, stage_bytes, policy);
        };
        copy(ask_at);
        if (leader) walk.ask();
        copy(whole - ask_at);
        const int rest = matrix.tiles - whole * stage_tiles;
        if (rest > 0)
            copy_stages<Shape, false>(feed, source, matrix.strip_bytes, strips, 1,
                                      static_cast<std::uint32_t>(rest) * Weights::kTileBytes, policy);
    }
}

}  // namespace tokamak::moe::cuda
