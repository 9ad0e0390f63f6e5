// SPDX-License-Identifier: Apache-2.0
// What the consumers of a CTA share about a unit. Two sets, because one is in use or being cleared while the next unit
// may begin; in between lies a barrier of theirs.
#pragma once

#include <cstdint>

#include "cuda/ptx/gather.cuh"
#include "moe/cuda/grouped/units.cuh"

namespace tokamak::moe::cuda {

template <class Shape>
struct UnitScratch {
    std::uint32_t* all_maxima;  ///< largest magnitude of each row: bits of f32, zeros between units
    std::int32_t* all_routes;   ///< where the list is in the workspace
    int turn = 0;

    __device__ UnitScratch(std::uint8_t* shared, const GroupedArgs& args)
        : all_maxima(reinterpret_cast<std::uint32_t*>(shared + args.lists.maxima)),
          all_routes(reinterpret_cast<std::int32_t*>(shared + args.lists.unit_routes)) {}

    [[nodiscard]] __device__ std::uint32_t* maxima() const { return all_maxima + turn * Shape::kTileRows; }
    [[nodiscard]] __device__ std::int32_t* routes() const { return all_routes + turn * Shape::kTileRows; }
    __device__ static void sync() { ptx::named_barrier(1, Shape::kConsumerWarps * 32); }
    /// Complete after the next sync.
    __device__ void copy_routes(const RowLists& lists, const Unit& unit) const {
        const int row = static_cast<int>(threadIdx.x);
        if (row < unit.tile.rows) routes()[row] = lists.template route<Shape>(unit.tile.first + row);
    }
    /// After the last sync of a unit.
    __device__ void clear_maxima() const {
        if (threadIdx.x < Shape::kTileRows) maxima()[threadIdx.x] = 0;
    }
    __device__ void next() { turn ^= 1; }
};

}  // namespace tokamak::moe::cuda
