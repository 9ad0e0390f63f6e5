// SPDX-License-Identifier: Apache-2.0
// What fills the ring: a stage holds 64 or 128 columns of a unit's strips and of its rows. One warp copies weights,
// another one rows, the rest consume; the ring runs on across units, experts and phases. The rings of a pair run in
// step: a stage is free when the consumers of both CTAs have given it back.
// An elected lane of a whole warp issues copies, in one form for all strips of a stage: by a lone lane, the form asked
// for at each copy, a stage of four strips took 200 instructions, more time than multiplying 64 rows.
#pragma once

#include <cstdint>

#include "cuda/ptx/copy.cuh"
#include "cuda/ptx/copy_by_address.cuh"
#include "cuda/ptx/gather.cuh"
#include "moe/cuda/stage_ring.cuh"
#include "moe/cuda/wide/codes.cuh"
#include "moe/cuda/wide/pair.cuh"
#include "moe/cuda/wide/rows.cuh"
#include "moe/cuda/wide/unit_end.cuh"

namespace tokamak::moe::cuda {

/// Parts that make a row tile's intermediate whole: groups of it, or what the warps of the strips have of it.
template <class Shape>
__device__ __forceinline__ int wide_tile_parts(const WideArgs& args) {
    return Shape::kQuantized ? args.down.tiles : args.gate_up.strips * 4;
}

/// A feeding warp's way through the ring, as shared addresses: the consumers wait for instructions that it issues
/// beside theirs, and a stage's pointer costs a dozen.
template <class Shape>
class WideFeed {
  public:
    __device__ __forceinline__ explicit WideFeed(const StageRing<Shape>& ring)
        : memory_(ptx::shared_address(ring.memory)),
          full_(ptx::shared_address(ring.full)),
          end_(static_cast<std::uint32_t>(ring.stages) * 8),
          stage_(memory_) {
        asm volatile("" : "+r"(memory_), "+r"(full_), "+r"(end_));  // else made once more for each stage
    }
    /// Until consumers have given the stage back.
    __device__ __forceinline__ void await() const { ptx::barrier_wait(full_ + end_ + place_, parity_ ^ 1U); }
    [[nodiscard]] __device__ __forceinline__ std::uint32_t full() const { return full_ + place_; }
    [[nodiscard]] __device__ __forceinline__ std::uint32_t stage() const { return stage_; }
    __device__ __forceinline__ void advance() {
        place_ += 8;
        stage_ += Shape::kStageBytes;
        if (place_ != end_) return;
        place_ = 0;
        stage_ = memory_;
        parity_ ^= 1U;
    }

  private:
    std::uint32_t memory_;
    std::uint32_t full_;
    std::uint32_t end_;
    std::uint32_t stage_;
    std::uint32_t place_ = 0;  ///< eight times its slot
    std::uint32_t parity_ = 0;
};

/// The strips of a stage, by an elected lane. Both: to both CTAs of the pair.
template <class Shape, bool Both>
__device__ __forceinline__ void copy_strips(std::uint32_t to, const std::uint8_t* from, std::int64_t strip_bytes,
                                            int count, std::uint32_t bytes, std::uint32_t full, std::uint64_t policy) {
#pragma unroll
    for (int strip = 0; strip < Shape::kStrips; ++strip) {
        if (strip >= count) break;
        if constexpr (Both)
            ptx::bulk_copy_both(to + strip * Shape::Weights::kStripStageBytes, from, bytes, full);
        else
            ptx::bulk_copy(to + strip * Shape::Weights::kStripStageBytes, from, bytes, full, policy);
        from += strip_bytes;
    }
}

/// Walks over the units of a phase and copies their weights, stage by stage. A whole warp runs it.
template <class Shape>
__device__ __forceinline__ void copy_wide_weights(WideFeed<Shape>& feed, const WideTables& tables,
                                                  const WideDeals& deals, int& turn, const DecodeMatrix& matrix,
                                                  bool down) {
    using Weights = typename Shape::Weights;
    constexpr int stage_tiles = Shape::kBlocks / Weights::kTileBlocks;
    const int chunks = Shape::chunks(matrix);
    const bool leader = threadIdx.x % 32 == 0;
    // What is read once gives way to the rows in the L2.
    const std::uint64_t policy = ptx::copy_policy(tables.facts->several == 0);
    const WidePair pair;
    WideWalk<Shape> walk(tables, deals, matrix, down);
    if (leader) walk.ask();
    const int ask_at = max(0, chunks - kWideAskAhead);
    while (const WideUnit* const next = walk.deal_next(turn)) {
        const WideUnit unit = *next;
        const bool both = Shape::kPairs && unit.same_strips && pair.size == 2;
        const WideRange share = pair.share(both, unit.strips);
        const std::uint8_t* source =
            matrix.packed + unit.expert * matrix.expert_bytes + (unit.strip + share.first) * matrix.strip_bytes;
        const int count = share.last - share.first;
        const auto place = static_cast<std::uint32_t>(share.first * Weights::kStripStageBytes);
        for (int chunk = 0; chunk < chunks; ++chunk) {
            if (leader && chunk == ask_at) walk.ask();
            const int tiles = min(stage_tiles, matrix.tiles - chunk * stage_tiles);
            const std::uint32_t bytes = static_cast<std::uint32_t>(tiles) * Weights::kTileBytes;
            const std::uint32_t full = feed.full();
            const std::uint32_t to = feed.stage() + place;
            feed.await();
            if (ptx::elect_lane()) {
                ptx::barrier_arrive_expect(full, bytes * static_cast<std::uint32_t>(unit.strips));
                if (both)
                    copy_strips<Shape, true>(to, source, matrix.strip_bytes, count, bytes, full, policy);
                else
                    copy_strips<Shape, false>(to, source, matrix.strip_bytes, count, bytes, full, policy);
            }
            source += bytes;
            feed.advance();
        }
    }
}

/// Copies the rows of a phase, stage by stage. A whole warp runs it.
template <class Shape>
__device__ __forceinline__ void copy_wide_rows(WideFeed<Shape>& feed, const WideDeals& deals, int& turn,
                                               const WideArgs& args, bool down) {
    const DecodeMatrix& matrix = down ? args.down : args.gate_up;
    void* const all = down ? args.intermediate : wide_x_rows<Shape>(args);
    const WidePair pair;
    const int blocks = matrix.padded_cols / 64;
    while (const WideUnit* const next = deals.await(++turn)) {
        const WideUnit unit = *next;
        if constexpr (!Shape::kBringsEnds && !Shape::Weights::kFromShared) prefetch_unit_end<Shape>(args, unit, down);
        if (down)
            TileCounts{args.tile_parts}.await(unit.tile, wide_tile_parts<Shape>(args));
        else if (wide_rows_overlap<Shape>(args))
            TileCounts{args.tile_rows}.await(unit.tile, unit.rows * WidePrepare::parts(args));
        ptx::fence_all_async();
        [[maybe_unused]] WideEndOnItsWay<Shape> end;
        if constexpr (Shape::kBringsEnds) end.ask(args, unit, down);  // the fence would wait for the answers
        const TileRows rows(all, unit.first, unit.rows, matrix.padded_cols);
        const auto bytes = static_cast<std::uint32_t>(unit.rows) * 128;
        const bool both = Shape::kPairs && !unit.same_strips && pair.size == 2;
        const WideRange share = pair.share(both, unit.rows);
        const auto own = static_cast<std::uint32_t>(share.last - share.first) * 128;
        const std::uint8_t* from = rows.block(0) + share.first * 128;
        const auto place = static_cast<std::uint32_t>(Shape::kRowsOffset + share.first * 128);
        for (int first = 0; first < blocks; first += Shape::kBlocks) {
            const std::uint32_t full = feed.full();
            const std::uint32_t to = feed.stage() + place;
            const int count = min(Shape::kBlocks, blocks - first);
            feed.await();
            if constexpr (Shape::kBringsEnds)
                if (first + Shape::kBlocks >= blocks) end.put(matrix.bias, WideUnitEnd<Shape>::of(args, turn));
            if (ptx::elect_lane()) {
                ptx::barrier_arrive_expect(full, bytes * static_cast<std::uint32_t>(count));
#pragma unroll
                for (int block = 0; block < Shape::kBlocks; ++block) {
                    if (block >= count || own == 0) break;
                    if (both)
                        ptx::bulk_copy_both(to + block * Shape::kRowBlockBytes, from + block * bytes, own, full);
                    else
                        ptx::bulk_copy(to + block * Shape::kRowBlockBytes, from + block * bytes, own, full);
                }
            }
            from += Shape::kBlocks * bytes;
            feed.advance();
        }
    }
}

/// The same for quantised rows, with the scales of the strips: those of tile t lie behind a strip's tiles, those of
/// tiles 2n and 2n + 1 at 16n.
template <class Shape>
__device__ __forceinline__ void copy_wide_codes(WideFeed<Shape>& feed, const WideDeals& deals, int& turn,
                                                const WideArgs& args, bool down) {
    const DecodeMatrix& matrix = down ? args.down : args.gate_up;
    void* const all = down ? args.intermediate : wide_x_rows<Shape>(args);
    const WidePair pair;
    while (const WideUnit* const next = deals.await(++turn)) {
        const WideUnit unit = *next;
        if (down) {
            TileCounts{args.tile_parts}.await(unit.tile, wide_tile_parts<Shape>(args));
            ptx::fence_all_async();
        }
        const WideTileCodes codes(all, unit.first, unit.rows, matrix.tiles);
        const auto bytes = static_cast<std::uint32_t>(codes.group_bytes());
        const bool both_rows = !unit.same_strips && pair.size == 2;
        const bool both_strips = unit.same_strips && pair.size == 2;
        const WideRange pieces = pair.share(both_rows, codes.group_bytes() / 16);
        const int first = pieces.first * 16;
        const auto own = static_cast<std::uint32_t>(pieces.last * 16 - first);
        const int scaled = Shape::kConverted ? 0 : unit.strips;  // converted strips have no scales of tiles
        const WideRange strips = pair.share(both_strips, scaled);
        const std::uint8_t* const scales = matrix.packed + unit.expert * matrix.expert_bytes +
                                           unit.strip * matrix.strip_bytes +
                                           static_cast<std::int64_t>(matrix.tiles) * Shape::Weights::kTileBytes;
        for (int tile = 0; tile < matrix.tiles; ++tile) {
            const std::uint32_t full = feed.full();
            const std::uint32_t stage = feed.stage();
            feed.await();
            if (ptx::elect_lane()) {
                ptx::barrier_arrive_expect(full, bytes + static_cast<std::uint32_t>(scaled) * kWideScaleBytes);
                const std::uint32_t to = stage + Shape::kRowsOffset + static_cast<std::uint32_t>(first);
                if (own > 0 && both_rows) ptx::bulk_copy_both(to, codes.group(tile) + first, own, full);
                if (own > 0 && !both_rows) ptx::bulk_copy(to, codes.group(tile) + first, own, full);
                const std::uint8_t* from = scales + tile / 2 * kWideScaleBytes + strips.first * matrix.strip_bytes;
                const std::uint32_t scales_to =
                    stage + Shape::kStripScalesOffset + static_cast<std::uint32_t>(strips.first * kWideScaleBytes);
#pragma unroll
                for (int strip = 0; strip < Shape::kStrips; ++strip, from += matrix.strip_bytes) {
                    if (strip >= strips.last - strips.first) break;
                    if (both_strips)
                        ptx::bulk_copy_both(scales_to + strip * kWideScaleBytes, from, kWideScaleBytes, full);
                    else
                        ptx::bulk_copy(scales_to + strip * kWideScaleBytes, from, kWideScaleBytes, full);
                }
            }
            feed.advance();
        }
    }
}

}  // namespace tokamak::moe::cuda
