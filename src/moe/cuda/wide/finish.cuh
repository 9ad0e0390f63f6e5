// SPDX-License-Identifier: Apache-2.0
// What becomes of a unit's sums, straight from the registers of the matrix instruction: a lane holds rows g and g + 8
// of a slab for rows 2t and 2t + 1 of each eight of the batch.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>

#include "moe/cuda/wide/multiply.cuh"

namespace tokamak::moe::cuda {

/// What the lane's two rows of a strip are multiplied by, and what is added.
template <class Shape, bool Down>
struct WideLaneRows {
    float scale_low = Shape::Weights::kSumScale;
    float scale_high = Shape::Weights::kSumScale;
    PendingElement low;
    PendingElement high;

    __device__ void load(const WideArgs& args, int expert, int strip, const WideConsumer& me) {
        const DecodeMatrix& matrix = Down ? args.down : args.gate_up;
        if constexpr (Shape::Weights::kGlobalScales) {
            const float2 global = *reinterpret_cast<const float2*>(
                matrix.packed + expert * matrix.expert_bytes + strip * matrix.strip_bytes +
                static_cast<std::int64_t>(matrix.tiles) * Shape::Weights::kTileBytes);
            scale_low *= global.x;
            scale_high *= global.y;
        }
        if (matrix.bias.data == nullptr) return;
        const int g = me.lane / 4;
        if constexpr (Down) {
            const int col = strip * 64 + me.slab * 16 + g;
            if (col < args.gate_up.cols) low.load(matrix.bias, expert, col);
            if (col + 8 < args.gate_up.cols) high.load(matrix.bias, expert, col + 8);
        } else {
            const int col = strip * 32 + me.slab * 8 + g;
            if (col >= args.down.cols) return;
            low.load(matrix.bias, expert, col);
            high.load(matrix.bias, expert, args.down.cols + col);
        }
    }
};

/// The activations as one formula: (up + offset) * gate * sigmoid(alpha * gate), with limits that may be infinite.
struct WideActivation {
    float alpha;
    float limit;
    float offset;

    __device__ explicit WideActivation(const Activation& a)
        : alpha(a.kind == ActivationKind::gpt_oss ? a.alpha : 1.0F),
          limit(a.kind != ActivationKind::swiglu && a.limit > 0.0F ? a.limit : INFINITY),
          offset(a.kind == ActivationKind::gpt_oss ? 1.0F : 0.0F) {}

    /// Comparisons let NaN through.
    [[nodiscard]] __device__ __forceinline__ float operator()(float gate, float up) const {
        gate = gate > limit ? limit : gate;
        up = up > limit ? limit : up;
        up = up < -limit ? -limit : up;
        return (up + offset) * gated(gate, alpha);
    }
};

template <class Shape, int Eights>
__device__ __forceinline__ void finish_gate_up(const WideArgs& args, const WideUnit& unit, int strip,
                                               const WideConsumer& me, const float (&sums)[Eights][4]) {
    const int col = strip * 32 + me.slab * 8 + me.lane / 4;
    if (col >= args.down.cols) return;
    WideLaneRows<Shape, false> rows;
    rows.load(args, unit.expert, strip, me);
    const float low = rows.low.value();
    const float high = rows.high.value();
    const WideActivation activation(args.activation);
    auto* const to = static_cast<__nv_bfloat16*>(args.intermediate) + unit.first * args.intermediate_stride + col;
#pragma unroll
    for (int n = 0; n < Eights; ++n)
#pragma unroll
        for (int odd = 0; odd < 2; ++odd) {
            const int row = n * 8 + me.lane % 4 * 2 + odd;
            const float value = activation(fmaf(sums[n][odd], rows.scale_low, low),
                                           fmaf(sums[n][odd + 2], rows.scale_high, high));
            if (row < unit.rows) to[row * args.intermediate_stride] = __float2bfloat16_rn(value);
        }
}

template <class Shape, int Eights>
__device__ __forceinline__ void finish_down(const WideArgs& args, const WideUnit& unit, int strip,
                                            const WideConsumer& me, const float (&sums)[Eights][4]) {
    const int hidden = args.gate_up.cols;
    const int col = strip * 64 + me.slab * 16 + me.lane / 4;
    if (col >= hidden) return;
    WideLaneRows<Shape, true> rows;
    rows.load(args, unit.expert, strip, me);
    const float low = rows.low.value();
    const float high = rows.high.value();
    const bool both = col + 8 < hidden;
#pragma unroll
    for (int n = 0; n < Eights; ++n)
#pragma unroll
        for (int odd = 0; odd < 2; ++odd) {
            const int row = n * 8 + me.lane % 4 * 2 + odd;
            if (row >= unit.rows) continue;
            const int route = __ldcg(args.list + unit.first + row);
            float* const to = args.partials + static_cast<std::int64_t>(route) * hidden + col;
            to[0] = fmaf(sums[n][odd], rows.scale_low, low);
            if (both) to[8] = fmaf(sums[n][odd + 2], rows.scale_high, high);
        }
}

}  // namespace tokamak::moe::cuda
