// SPDX-License-Identifier: Apache-2.0
// What becomes of a unit's sums, straight from the registers of the matrix instruction: a lane holds rows g and g + 8
// of a slab for rows 2t and 2t + 1 of each eight of the batch.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>

#include "moe/cuda/wide/multiply.cuh"
#include "moe/cuda/wide/results.cuh"

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
            const float2 global =
                *reinterpret_cast<const float2*>(wide_strip_end<typename Shape::Weights>(matrix, expert, strip));
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

    /// NaN stays NaN.
    __device__ __forceinline__ void limit_both(float& gate, float& up) const {
        asm("min.NaN.f32 %0, %0, %1;" : "+f"(gate) : "f"(limit));
        asm("min.NaN.f32 %0, %0, %1;" : "+f"(up) : "f"(limit));
        asm("max.NaN.f32 %0, %0, %1;" : "+f"(up) : "f"(-limit));
        up += offset;
    }
};

/// gate * sigmoid(alpha * gate) * up with the exponential and the division of the hardware, whose errors are 2^-21 of
/// it.
struct WideGate {
    float factor;  ///< -alpha / ln 2

    [[nodiscard]] __device__ __forceinline__ float operator()(float gate, float up) const {
        float power;
        float sigmoid;
        asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(gate * factor));
        asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(sigmoid) : "f"(1.0F + power));
        return (sigmoid == 0.0F ? 0.0F : gate * sigmoid) * up;
    }
};

/// Eight neighbouring columns of one row of the intermediate, as much of them as it has.
__device__ __forceinline__ void store_eight(std::uint8_t* to, int left, const uint4& eight) {
    if (left >= 8) {
        *reinterpret_cast<uint4*>(to) = eight;
        return;
    }
    const std::uint32_t words[4] = {eight.x, eight.y, eight.z, eight.w};
    auto* const halves = reinterpret_cast<std::uint16_t*>(to);
#pragma unroll
    for (int i = 0; i < 8; ++i)
        if (i < left) halves[i] = static_cast<std::uint16_t>(words[i / 2] >> (i % 2 * 16));
}

/// Eight neighbouring columns of one row, as much of them as it has, out of the warp's patch.
__device__ __forceinline__ void store_turned(std::uint8_t* to, int left, const std::uint8_t* patch) {
    if (left >= 8) {
        *reinterpret_cast<uint4*>(to) = *reinterpret_cast<const uint4*>(patch);
        return;
    }
#pragma unroll 1
    for (int i = 0; i < left; ++i)
        reinterpret_cast<std::uint16_t*>(to)[i] = reinterpret_cast<const std::uint16_t*>(patch)[i];
}

/// What most layers do not have, under one branch each: scales, biases, limits, an offset.
template <class Shape, class Rows, int Eights>
__device__ __forceinline__ void prepare_gates(const WideArgs& args, const Rows& rows, float (&sums)[Eights][4]) {
    const WideActivation activation(args.activation);
    constexpr bool scaled = Shape::Weights::kGlobalScales || Shape::Weights::kSumScale != 1.0F;
    if (scaled || args.gate_up.bias.data != nullptr) {
        const float low = rows.low.value();
        const float high = rows.high.value();
#pragma unroll
        for (int n = 0; n < Eights; ++n)
#pragma unroll
            for (int i = 0; i < 4; ++i)
                sums[n][i] = i < 2 ? fmaf(sums[n][i], rows.scale_low, low) : fmaf(sums[n][i], rows.scale_high, high);
    }
    if (args.activation.kind == ActivationKind::swiglu) return;
#pragma unroll
    for (int n = 0; n < Eights; ++n)
#pragma unroll
        for (int odd = 0; odd < 2; ++odd) activation.limit_both(sums[n][odd], sums[n][odd + 2]);
}

/// Gates become results in bf16, by way of the warp's 512 bytes of shared memory, so that a lane stores eight columns
/// of a row at once. `own`: the lane's place there; `store` gets the first of 32 rows.
template <int Eights, typename Store>
__device__ __forceinline__ void turn_results(const WideGate& gate, std::uint32_t own, const float (&sums)[Eights][4],
                                             const Store& store) {
#pragma unroll
    for (int four = 0; four < Eights; four += 4) {
        std::uint32_t pairs[4] = {};
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            if (four + i >= Eights) break;
            const float(&s)[4] = sums[four + i];
            const __nv_bfloat162 pair = __floats2bfloat162_rn(gate(s[0], s[2]), gate(s[1], s[3]));
            pairs[i] = *reinterpret_cast<const std::uint32_t*>(&pair);
        }
        __syncwarp();
        ptx::store_matrix_transposed_x4(own, pairs);
        __syncwarp();
        store(four * 8);
    }
}

template <class Shape, int Eights>
__device__ __forceinline__ void finish_gate_up(const WideArgs& args, const WideUnit& unit, int strip,
                                               const WideConsumer& me, std::uint8_t* patch,
                                               const WideLaneRows<Shape, false>& rows, float (&sums)[Eights][4]) {
    prepare_gates<Shape>(args, rows, sums);
    const WideGate gate{WideActivation(args.activation).alpha * -1.44269504F};
    const int col = strip * 32 + me.slab * 8;
    const int left = args.down.cols - col;
    const TileRows to(args.intermediate, unit.first, unit.rows, args.down.padded_cols);
    const std::uint32_t own = ptx::shared_address(patch) + static_cast<std::uint32_t>(me.lane) * 16;
    turn_results(gate, own, sums, [&](int first) {
        const int row = first + me.lane;
        if (row < unit.rows) store_turned(to.place(row, col / 8), left, patch + me.lane * 16);
    });
}

/// Routes of a unit's rows: a lane has those of rows `lane` of each 32, -1 behind the last one.
template <int Eights>
struct WideRowRoutes {
    int routes[(Eights + 3) / 4];

    __device__ __forceinline__ WideRowRoutes(const WideArgs& args, const WideUnit& unit, int lane) {
#pragma unroll
        for (int i = 0; i < (Eights + 3) / 4; ++i) {
            const int row = i * 32 + lane;
            routes[i] = row < unit.rows ? __ldcg(args.list + unit.first + row) : -1;
        }
    }
};

template <class Shape, int Eights>
__device__ __forceinline__ void finish_down(const WideArgs& args, int strip, const WideConsumer& me,
                                            const WideRowRoutes<Eights>& routes, const WideLaneRows<Shape, true>& rows,
                                            const float (&sums)[Eights][4]) {
    const int hidden = args.gate_up.cols;
    const std::int64_t stride = wide_result_stride(args, false);
    const int col = strip * 64 + me.slab * 16 + me.lane / 4;
    const float low = rows.low.value();
    const float high = rows.high.value();
    const bool first = col < hidden;
    const bool second = col + 8 < hidden;
#pragma unroll
    for (int n = 0; n < Eights; ++n)
#pragma unroll
        for (int odd = 0; odd < 2; ++odd) {
            const int route = __shfl_sync(0xFFFFFFFFU, routes.routes[n / 4], n % 4 * 8 + me.lane % 4 * 2 + odd);
            float* const to = args.partials + route * stride + col;
            if (route >= 0 && first) to[0] = fmaf(sums[n][odd], rows.scale_low, low);
            if (route >= 0 && second) to[8] = fmaf(sums[n][odd + 2], rows.scale_high, high);
        }
}

/// The same with what it needs asked for just before.
template <class Shape, int Eights>
__device__ __forceinline__ void finish_down_row(const WideArgs& args, const WideUnit& unit, int strip,
                                                const WideConsumer& me, const float (&sums)[Eights][4]) {
    WideLaneRows<Shape, true> rows;
    rows.load(args, unit.expert, strip, me);
    const WideRowRoutes<Eights> routes(args, unit, me.lane);
    finish_down<Shape>(args, strip, me, routes, rows, sums);
}

}  // namespace tokamak::moe::cuda
