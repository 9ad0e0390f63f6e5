// SPDX-License-Identifier: Apache-2.0
// What becomes of a unit's sums, straight from the registers of the matrix instruction: a lane holds rows g and g + 8
// of a slab for tokens 2t and 2t + 1 of each eight.
#pragma once

#include <cstdint>

#include "moe/cuda/grouped/multiply.cuh"
#include "moe/cuda/grouped/tile_preparation.cuh"

namespace tokamak::moe::cuda {

/// Biases of a lane's two rows of one strip, and what their sums are multiplied by where it is not the same for all:
/// loaded before the strip is multiplied, needed after it.
template <class Shape>
struct LaneRows {
    using Weights = typename Shape::Weights;
    PendingElement low;
    PendingElement high;
    float2 global = {1.0F, 1.0F};

    __device__ void load(const GroupedArgs& args, bool down, int expert, int strip, const Consumer& me) {
        const DecodeMatrix& matrix = down ? args.down : args.gate_up;
        if (Weights::kGlobalScales && strip < matrix.strips)
            global = *reinterpret_cast<const float2*>(matrix.packed + expert * matrix.expert_bytes +
                                                      strip * matrix.strip_bytes +
                                                      static_cast<std::int64_t>(matrix.tiles) * Weights::kTileBytes);
        const DecodeRows& bias = matrix.bias;
        if (bias.data == nullptr) return;
        const int g = me.lane / 4;
        if (down) {
            const int col = strip * 64 + me.slab * 16 + g;
            if (col < args.gate_up.cols) low.load(bias, expert, col);
            if (col + 8 < args.gate_up.cols) high.load(bias, expert, col + 8);
        } else {
            const int col = strip * 32 + me.slab * 8 + g;
            if (col >= args.down.cols) return;
            low.load(bias, expert, col);
            high.load(bias, expert, args.down.cols + col);
        }
    }
    [[nodiscard]] __device__ __forceinline__ float low_value(float sum) const {
        return fmaf(sum, Weights::kGlobalScales ? global.x * Weights::kSumScale : Weights::kSumScale, low.value());
    }
    [[nodiscard]] __device__ __forceinline__ float high_value(float sum) const {
        return fmaf(sum, Weights::kGlobalScales ? global.y * Weights::kSumScale : Weights::kSumScale, high.value());
    }
};

/// The lane's rows g and g + 8 of one strip, for one row of the tile.
template <bool Down, class Shape>
__device__ __forceinline__ void finish_pair(const GroupedArgs& args, const RowTile& tile, int row, int route, int strip,
                                            const Consumer& me, float low, float high) {
    const int g = me.lane / 4;
    if constexpr (Down) {
        const int hidden = args.gate_up.cols;
        const int col = strip * 64 + me.slab * 16 + g;
        float* const to = args.partials + static_cast<std::int64_t>(route) * hidden + col;
        if (col < hidden) to[0] = low;
        if (col + 8 < hidden) to[8] = high;
    } else {
        const int col = strip * 32 + me.slab * 8 + g;
        if (col >= args.down.cols) return;
        const float value = activate(args.activation, low, high);
        auto* const rows = static_cast<__nv_bfloat16*>(args.intermediate);
        if constexpr (Shape::kCopiesRows) {
            auto* const eight = reinterpret_cast<__nv_bfloat16*>(
                TileRows(args.intermediate, tile.first, tile.rows, staged_cols(args.down.cols)).place(row, col / 8));
            eight[col % 8] = __float2bfloat16_rn(value);
        } else if constexpr (Shape::kPrepares) {
            const std::int64_t padded = (args.down.cols + kPreparedGroup - 1) / kPreparedGroup * kPreparedGroup;
            rows[route * padded + moved_place(col)] = __float2bfloat16_rn(value * kLargeActivations);
        } else {
            rows[route * args.intermediate_stride + col] = __float2bfloat16_rn(value);
        }
    }
}

/// Routes of a unit's rows.
template <class Shape>
struct UnitRoutes {
    const std::uint16_t* list;
    const std::int32_t* copied;  ///< in its place where the list is in the workspace

    [[nodiscard]] __device__ int at(int row) const { return Shape::kGridLists ? copied[row] : list[row]; }
};

template <bool Down, class Shape, int Strips, int Blocks>
__device__ __forceinline__ void finish_unit(const GroupedArgs& args, const UnitRoutes<Shape>& routes, const Unit& unit,
                                            const Consumer& me, const LaneRows<Shape> (&rows)[Strips],
                                            const float (&sums)[Strips][Blocks][4]) {
#pragma unroll
    for (int n = 0; n < Blocks; ++n)
#pragma unroll
        for (int odd = 0; odd < 2; ++odd) {
            const int row = n * 8 + me.lane % 4 * 2 + odd;
            if (row >= unit.tile.rows) continue;
            const int route = routes.at(row);
#pragma unroll
            for (int i = 0; i < Strips; ++i) {
                const int strip = me.warpgroup + i * Shape::kWarpgroups;
                if (strip < unit.strips)
                    finish_pair<Down, Shape>(args, unit.tile, row, route, unit.strip + strip, me,
                                             rows[i].low_value(sums[i][n][odd]),
                                             rows[i].high_value(sums[i][n][odd + 2]));
            }
        }
}

}  // namespace tokamak::moe::cuda
