// SPDX-License-Identifier: Apache-2.0
// Copies the rows of units into the stages where they lie in the ring's form (TileRows).
#pragma once

#include "moe/cuda/grouped/stage_ring.cuh"
#include "moe/cuda/grouped/tile_preparation.cuh"

namespace tokamak::moe::cuda {

/// The rows of a phase, stage by stage. A whole warp runs it.
template <class Shape>
__device__ __forceinline__ void copy_tile_rows(const GroupedArgs& args, const RowLists& lists, bool down,
                                               const StageRing<Shape>& ring, RingPlace& place) {
    constexpr int stage_blocks = Shape::kRowBlocks;
    const int cols = staged_cols(down ? args.down.cols : args.gate_up.cols);
    void* const all = down ? args.intermediate : static_cast<void*>(args.prepared_rows);
    UnitWalk<Shape> walk(lists, args, down);
    Unit unit;
    while (walk.next(unit)) {
        if (down) TileCounts{args.tile_units}.await(unit.index, lists.units(false));
        ptx::fence_all_async();
        const TileRows rows(all, unit.tile.first, unit.tile.rows, cols);
        const auto bytes = static_cast<std::uint32_t>(unit.tile.rows) * 128;
        for (int block = 0; block < cols / 64; block += stage_blocks) {
            std::uint64_t* const full = &ring.full[place.slot];
            std::uint8_t* const to = ring.stage(place.slot) + Shape::kRowsOffset;
            ptx::barrier_wait(&ring.empty[place.slot], place.parity ^ 1U);
            if (ptx::elect_lane()) {
                ptx::barrier_arrive_expect(full, bytes * stage_blocks);
#pragma unroll
                for (int i = 0; i < stage_blocks; ++i)
                    ptx::bulk_copy(to + i * Shape::kRowBlockBytes, rows.block(block + i), bytes, full);
            }
            place.advance(ring.stages);
        }
    }
}

}  // namespace tokamak::moe::cuda
