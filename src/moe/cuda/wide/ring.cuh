// SPDX-License-Identifier: Apache-2.0
// What fills the ring: a stage holds 64 or 128 columns of a unit's strips and of its rows. One warp copies weights,
// another one rows, the rest consume; the ring runs on across units, experts and phases.
#pragma once

#include <cstdint>

#include "cuda/ptx/copy.cuh"
#include "cuda/ptx/gather.cuh"
#include "moe/cuda/stage_ring.cuh"
#include "moe/cuda/wide/codes.cuh"
#include "moe/cuda/wide/rows.cuh"

namespace tokamak::moe::cuda {

/// Parts that make a row tile's intermediate whole: groups of it, or what the warps of the strips have of it.
template <class Shape>
__device__ __forceinline__ int wide_tile_parts(const WideArgs& args) {
    return Shape::kQuantized ? args.down.tiles : args.gate_up.strips * 4;
}

/// Walks over the units of a phase and copies their weights, stage by stage. One lane runs it.
template <class Shape>
__device__ __forceinline__ void copy_wide_weights(const StageRing<Shape>& ring, RingPlace& place,
                                                  const WideTables& tables, const WideDeals& deals, int& turn,
                                                  const DecodeMatrix& matrix, bool down) {
    using Weights = typename Shape::Weights;
    constexpr int stage_tiles = Shape::kBlocks / Weights::kTileBlocks;
    const int chunks = Shape::chunks(matrix);
    // No other unit reads the same weights: they give way to the rows in the L2.
    const bool once = Shape::kQuantized && tables.facts->several == 0;
    WideWalk<Shape> walk(tables, matrix, down);
    WideUnit unit;
    for (;;) {
        const bool more = walk.next(unit);
        deals.put(++turn, more ? unit : WideUnit{.expert = -1});
        if (!more) return;
        const std::uint8_t* source =
            matrix.packed + unit.expert * matrix.expert_bytes + unit.strip * matrix.strip_bytes;
        for (int chunk = 0; chunk < chunks; ++chunk) {
            const int tiles = min(stage_tiles, matrix.tiles - chunk * stage_tiles);
            const std::uint32_t bytes = static_cast<std::uint32_t>(tiles) * Weights::kTileBytes;
            std::uint64_t* const full = &ring.full[place.slot];
            std::uint8_t* to = ring.stage(place.slot);
            ptx::barrier_wait(&ring.empty[place.slot], place.parity ^ 1U);
            ptx::barrier_arrive_expect(full, bytes * static_cast<std::uint32_t>(unit.strips));
            const std::uint8_t* from = source;
            for (int strip = 0; strip < unit.strips; ++strip) {
                if (once)
                    ptx::bulk_copy_once(to, from, bytes, full);
                else
                    ptx::bulk_copy(to, from, bytes, full);
                to += Weights::kStripStageBytes;
                from += matrix.strip_bytes;
            }
            source += bytes;
            place.advance(ring.stages);
        }
    }
}

/// Copies the rows of a phase, stage by stage. One lane runs it.
template <class Shape>
__device__ __forceinline__ void copy_wide_rows(const StageRing<Shape>& ring, RingPlace& place, const WideDeals& deals,
                                               int& turn, const WideArgs& args, bool down) {
    const DecodeMatrix& matrix = down ? args.down : args.gate_up;
    void* const all = down ? args.intermediate : wide_x_rows<Shape>(args);
    const int blocks = matrix.padded_cols / 64;
    while (const WideUnit* const next = deals.await(++turn)) {
        const WideUnit unit = *next;
        if (down) {
            TileCounts{args.tile_parts}.await(unit.tile, wide_tile_parts<Shape>(args));
            ptx::fence_all_async();
        }
        const TileRows rows(all, unit.first, unit.rows, matrix.padded_cols);
        const auto bytes = static_cast<std::uint32_t>(unit.rows) * 128;
        for (int first = 0; first < blocks; first += Shape::kBlocks) {
            std::uint64_t* const full = &ring.full[place.slot];
            std::uint8_t* const to = ring.stage(place.slot) + Shape::kRowsOffset;
            const int count = min(Shape::kBlocks, blocks - first);
            ptx::barrier_wait(&ring.empty[place.slot], place.parity ^ 1U);
            ptx::barrier_arrive_expect(full, bytes * static_cast<std::uint32_t>(count));
            for (int block = 0; block < count; ++block)
                ptx::bulk_copy(to + block * Shape::kRowBlockBytes, rows.block(first + block), bytes, full);
            place.advance(ring.stages);
        }
    }
}

/// The same for quantised rows, with the scales of the strips: those of tile t lie behind a strip's tiles, those of
/// tiles 2n and 2n + 1 at 16n.
template <class Shape>
__device__ __forceinline__ void copy_wide_codes(const StageRing<Shape>& ring, RingPlace& place, const WideDeals& deals,
                                                int& turn, const WideArgs& args, bool down) {
    const DecodeMatrix& matrix = down ? args.down : args.gate_up;
    void* const all = down ? args.intermediate : wide_x_rows<Shape>(args);
    while (const WideUnit* const next = deals.await(++turn)) {
        const WideUnit unit = *next;
        if (down) {
            TileCounts{args.tile_parts}.await(unit.tile, wide_tile_parts<Shape>(args));
            ptx::fence_all_async();
        }
        const WideTileCodes codes(all, unit.first, unit.rows, matrix.tiles);
        const auto bytes = static_cast<std::uint32_t>(codes.group_bytes());
        const std::uint8_t* const scales = matrix.packed + unit.expert * matrix.expert_bytes +
                                           unit.strip * matrix.strip_bytes +
                                           static_cast<std::int64_t>(matrix.tiles) * Shape::Weights::kTileBytes;
        for (int tile = 0; tile < matrix.tiles; ++tile) {
            std::uint64_t* const full = &ring.full[place.slot];
            std::uint8_t* const stage = ring.stage(place.slot);
            ptx::barrier_wait(&ring.empty[place.slot], place.parity ^ 1U);
            ptx::barrier_arrive_expect(full, bytes + static_cast<std::uint32_t>(unit.strips) * kWideScaleBytes);
            ptx::bulk_copy(stage + Shape::kRowsOffset, codes.group(tile), bytes, full);
            const std::uint8_t* from = scales + tile / 2 * kWideScaleBytes;
            for (int strip = 0; strip < unit.strips; ++strip, from += matrix.strip_bytes)
                ptx::bulk_copy(stage + Shape::kStripScalesOffset + strip * kWideScaleBytes, from, kWideScaleBytes,
                               full);
            place.advance(ring.stages);
        }
    }
}

}  // namespace tokamak::moe::cuda
