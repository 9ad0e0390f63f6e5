// SPDX-License-Identifier: Apache-2.0
// What becomes of a unit's sums, straight from the registers of the matrix instruction: a lane holds rows g and g + 8
// of a slab for tokens 2t and 2t + 1 of each eight.
#pragma once

#include <cstdint>

#include "moe/cuda/grouped/multiply.cuh"
#include "moe/cuda/grouped/prepare.cuh"

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

/// The activations as one formula: (up + offset) * gate * sigmoid(alpha * gate), with limits that may be infinite. A
/// branch around each value would make a lane's values follow one another, 150 cycles each.
struct UnitActivation {
    float alpha;
    float limit;
    float offset;

    __device__ explicit UnitActivation(const Activation& a)
        : alpha(a.kind == ActivationKind::gpt_oss ? a.alpha : 1.0F),
          limit(a.kind != ActivationKind::swiglu && a.limit > 0.0F ? a.limit : INFINITY),
          offset(a.kind == ActivationKind::gpt_oss ? 1.0F : 0.0F) {}

    /// Comparisons let NaN through. Where the sigmoid underflows its limit is 0: -inf * 0 is not a number.
    [[nodiscard]] __device__ __forceinline__ float operator()(float gate, float up) const {
        gate = gate > limit ? limit : gate;
        up = up > limit ? limit : up;
        up = up < -limit ? -limit : up;
        const float sigmoid = __fdividef(1.0F, 1.0F + __expf(-alpha * gate));
        return (up + offset) * (sigmoid == 0.0F ? 0.0F : gate * sigmoid);
    }
};

/// Routes of a unit's rows.
template <class Shape>
struct UnitRoutes {
    const std::uint16_t* list;
    const std::int32_t* copied;  ///< in its place where the list is in the workspace

    [[nodiscard]] __device__ int at(int row) const { return Shape::kGridLists ? copied[row] : list[row]; }
};

/// The lane's places in the rows of a unit, two in each eight: routes, where there is a row.
template <class Shape, int Blocks>
__device__ __forceinline__ void find_routes(const UnitRoutes<Shape>& routes, int rows, int lane,
                                            int (&found)[Blocks][2]) {
#pragma unroll
    for (int n = 0; n < Blocks; ++n)
#pragma unroll
        for (int odd = 0; odd < 2; ++odd) {
            const int row = n * 8 + lane % 4 * 2 + odd;
            found[n][odd] = routes.at(row < rows ? row : 0);
        }
}

/// One strip of gate/up: all values first, then the stores.
template <class Shape, int Blocks>
__device__ __forceinline__ void finish_gate_up(const GroupedArgs& args, const int (&routes)[Blocks][2], int rows,
                                               int strip, const Consumer& me, const LaneRows<Shape>& lane,
                                               const float (&sums)[Blocks][4]) {
    const UnitActivation activation(args.activation);
    float values[Blocks][2];
#pragma unroll
    for (int n = 0; n < Blocks; ++n)
#pragma unroll
        for (int odd = 0; odd < 2; ++odd)
            values[n][odd] = activation(lane.low_value(sums[n][odd]), lane.high_value(sums[n][odd + 2]));
    const int col = strip * 32 + me.slab * 8 + me.lane / 4;
    if (col >= args.down.cols) return;
    constexpr bool moved = Shape::kPrepares;
    const std::int64_t stride =
        moved ? (args.down.cols + kPreparedGroup - 1) / kPreparedGroup * kPreparedGroup : args.intermediate_stride;
    auto* const to = static_cast<__nv_bfloat16*>(args.intermediate) + (moved ? moved_place(col) : col);
#pragma unroll
    for (int n = 0; n < Blocks; ++n)
#pragma unroll
        for (int odd = 0; odd < 2; ++odd)
            if (n * 8 + me.lane % 4 * 2 + odd < rows)
                to[routes[n][odd] * stride] =
                    __float2bfloat16_rn(moved ? values[n][odd] * kLargeActivations : values[n][odd]);
}

/// One strip of the down phase: f32 rows of routes.
template <class Shape, int Blocks>
__device__ __forceinline__ void finish_down(const GroupedArgs& args, const int (&routes)[Blocks][2], int rows,
                                            int strip, const Consumer& me, const LaneRows<Shape>& lane,
                                            const float (&sums)[Blocks][4]) {
    const int hidden = args.gate_up.cols;
    const int col = strip * 64 + me.slab * 16 + me.lane / 4;
    const bool first = col < hidden;
    const bool second = col + 8 < hidden;
#pragma unroll
    for (int n = 0; n < Blocks; ++n)
#pragma unroll
        for (int odd = 0; odd < 2; ++odd) {
            const bool present = n * 8 + me.lane % 4 * 2 + odd < rows;
            float* const to = args.partials + static_cast<std::int64_t>(routes[n][odd]) * hidden + col;
            if (present && first) to[0] = lane.low_value(sums[n][odd]);
            if (present && second) to[8] = lane.high_value(sums[n][odd + 2]);
        }
}

template <bool Down, class Shape, int Strips, int Blocks>
__device__ __forceinline__ void finish_unit(const GroupedArgs& args, const UnitRoutes<Shape>& routes, const Unit& unit,
                                            const Consumer& me, const LaneRows<Shape> (&rows)[Strips],
                                            const float (&sums)[Strips][Blocks][4]) {
    int found[Blocks][2];
    find_routes<Shape>(routes, unit.tile.rows, me.lane, found);
#pragma unroll
    for (int i = 0; i < Strips; ++i) {
        const int strip = me.warpgroup + i * Shape::kWarpgroups;
        if (strip >= unit.strips) break;
        if constexpr (Down)
            finish_down<Shape>(args, found, unit.tile.rows, unit.strip + strip, me, rows[i], sums[i]);
        else
            finish_gate_up<Shape>(args, found, unit.tile.rows, unit.strip + strip, me, rows[i], sums[i]);
    }
}

}  // namespace tokamak::moe::cuda
