// SPDX-License-Identifier: Apache-2.0
// 4-bit weights for matrix units that take 8 bits: the last CTAs of the grid convert the weights of a unit (four strips
// of an expert) once for all its row tiles, into a slot of a ring in the workspace, most of which stays in the L2; the
// others multiply by it as by 8-bit weights. Converting where weights are multiplied would take the matrix unit's time.
#pragma once

#include <cstdint>

#include "cuda/ptx/copy.cuh"
#include "moe/cuda/wide/ring.cuh"
#include "moe/cuda/wide/units.cuh"

namespace tokamak::moe::cuda {

inline constexpr int kConvertWarps = 8;
/// Stages that are told together.
inline constexpr int kConvertBatch = 8;

/// Strips of the units of an expert, as WideWalk cuts them.
struct WideUnitCut {
    int strips;  ///< of the matrix
    int step;    ///< that stay together
    int steps;
    int units;

    __device__ WideUnitCut(const DecodeMatrix& matrix, const WideConversion& conversion, bool down)
        : strips(matrix.strips),
          step(down ? 1 : kWideSlotStrips),
          steps((matrix.strips + step - 1) / step),
          units(conversion.units) {}
    [[nodiscard]] __device__ int first(int part) const { return steps * part / units * step; }
    [[nodiscard]] __device__ int count(int part) const { return min(first(part + 1), strips) - first(part); }
    /// The part that begins at a strip and has some.
    [[nodiscard]] __device__ int part_of(int strip) const { return ((strip / step + 1) * units - 1) / steps; }
};

/// Experts that have rows, by their rank among these; asked for in ascending order.
class WideLiveExperts {
  public:
    __device__ explicit WideLiveExperts(const WideTables& tables) : tables_(tables) {
        while (tables_.tile_count(expert_) == 0) ++expert_;
    }
    /// There must be one.
    __device__ int at(int rank) {
        while (rank_ < rank)
            if (tables_.tile_count(++expert_) > 0) ++rank_;
        return expert_;
    }

  private:
    const WideTables& tables_;
    int expert_ = 0;
    int rank_ = 0;
};

/// What a CTA that multiplies keeps about slots.
struct WideSlots {
    std::uint8_t* memory;

    /// Scales of the unit of a turn: those of the rows of its strips.
    [[nodiscard]] __device__ float* scales(int turn) const {
        return reinterpret_cast<float*>(memory) + turn % kWideSlotScales * kWideSlotRows;
    }
    /// The job that its weights are from, -1 without.
    [[nodiscard]] __device__ std::int32_t& job(int turn) const {
        return reinterpret_cast<std::int32_t*>(memory + kWideSlotScales * kWideSlotRows * 4)[turn % kWideDeals];
    }
    /// By each consumer warp, which needs no more of the unit. What it read it has used, so nothing is ordered.
    __device__ void give_back(const WideConversion& conversion, int turn, int lane) const {
        const int own = job(turn);
        if (lane == 0 && own >= 0)
            asm volatile("red.relaxed.gpu.global.add.s32 [%0], 1;" ::"l"(conversion.used + own) : "memory");
    }
};

/// As copy_wide_weights, from slots, each stage as soon as it is converted. The last stage of a unit brings the scales.
template <class Shape>
__device__ __forceinline__ void copy_converted_weights(WideFeed<Shape>& feed, const WideTables& tables,
                                                       const WideDeals& deals, int& turn, const WideArgs& args,
                                                       const WideSlots& slots, bool down) {
    static_assert(Shape::Weights::kTileBytes == kWideSlotTileBytes && Shape::kBlocks == Shape::Weights::kTileBlocks);
    constexpr std::uint32_t scale_bytes = kWideSlotRows * 4;
    const DecodeMatrix& matrix = down ? args.down : args.gate_up;
    const WideConversion& conversion = args.conversions[down ? 1 : 0];
    const WideUnitCut cut(matrix, conversion, down);
    const int chunks = matrix.tiles;
    const bool leader = threadIdx.x % 32 == 0;
    const std::uint64_t policy = ptx::copy_policy(tables.facts->several == 0);
    const WidePair pair;
    WideWalk<Shape> walk(tables, deals, matrix, down);
    if (leader) walk.ask();
    const int ask_at = max(0, chunks - kWideAskAhead);
    int expert = 0;
    int rank = 0;  // of it among those with rows
    while (const WideUnit* const next = walk.deal_next(turn)) {
        const WideUnit unit = *next;
#pragma unroll 1
        for (; expert < unit.expert; ++expert) rank += tables.tile_count(expert) > 0 ? 1 : 0;
        const int job = unit.strips > 0 ? rank * conversion.units + cut.part_of(unit.strip) : -1;
        if (leader) slots.job(turn) = job;
        const bool both = unit.same_strips && pair.size == 2;
        const WideRange share = pair.share(both, unit.strips);
        const std::uint8_t* const slot = conversion.slots + job % conversion.count * conversion.slot_bytes;
        const std::uint8_t* source = slot + share.first * matrix.strip_bytes;
        for (int chunk = 0; chunk < chunks; ++chunk) {
            if (leader && chunk == ask_at) walk.ask();
            if (job >= 0 && chunk % kConvertBatch == 0) {
                TileCounts{conversion.made}.await(job, chunk / kConvertBatch + 1);
                ptx::fence_all_async();
            }
            const bool last = job >= 0 && chunk == chunks - 1;
            const std::uint32_t full = feed.full();
            const std::uint32_t to = feed.stage() + static_cast<std::uint32_t>(share.first) * kWideSlotTileBytes;
            feed.await();
            __syncwarp();
            if (ptx::elect_lane()) {
                ptx::barrier_arrive_expect(
                    full, kWideSlotTileBytes * static_cast<std::uint32_t>(unit.strips) + (last ? scale_bytes : 0));
                const int count = share.last - share.first;
                if (both)
                    copy_strips<Shape, true>(to, source, matrix.strip_bytes, count, kWideSlotTileBytes, full, policy);
                else
                    copy_strips<Shape, false>(to, source, matrix.strip_bytes, count, kWideSlotTileBytes, full, policy);
                if (last)
                    ptx::bulk_copy(ptx::shared_address(slots.scales(turn)), slot + kWideSlotStrips * matrix.strip_bytes,
                                   scale_bytes, full);
            }
            source += kWideSlotTileBytes;
            feed.advance();
        }
    }
}

}  // namespace tokamak::moe::cuda
