// SPDX-License-Identifier: Apache-2.0
// What the consumers of a CTA share about a unit. Two sets, because one is in use or being cleared while the next unit
// may begin; in between lies a barrier of theirs.
#pragma once

#include <cstdint>

#include "cuda/ptx/gather.cuh"
#include "moe/cuda/grouped/units.cuh"

namespace tokamak::moe::cuda {

/// Finds its sets by the kernel's arguments, so that it takes no registers while a unit is multiplied.
template <class Shape>
struct UnitScratch {
    std::uint8_t* shared;
    const GroupedArgs& args;
    int turn = 0;

    /// Largest magnitude of each row: bits of f32, zeros between units.
    [[nodiscard]] __device__ std::uint32_t* maxima() const {
        return reinterpret_cast<std::uint32_t*>(shared + args.lists.maxima) + turn * Shape::kTileRows;
    }
    /// Routes of the unit's rows, where the list is in the workspace.
    [[nodiscard]] __device__ std::int32_t* routes() const {
        return reinterpret_cast<std::int32_t*>(shared + args.lists.unit_routes) + turn * Shape::kTileRows;
    }
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
    __device__ void next() {
        if constexpr (Shape::kRowScales) turn ^= 1;
    }
};

}  // namespace tokamak::moe::cuda
