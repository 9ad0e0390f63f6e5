// SPDX-License-Identifier: Apache-2.0
// Gate/up where rows are rounded to what e4m3 leaves of them: its four strips are 128 columns of the intermediate,
// whose scales the consumers find together, as those of quantised rows; what is stored are operands in bf16.
#pragma once

#include <cstdint>

#include "moe/cuda/wide/finish_quantized.cuh"
#include "moe/cuda/wide/rounded_rows.cuh"

namespace tokamak::moe::cuda {

/// What the consumers of a CTA share about the rows of a unit.
template <int Rows>
struct WideRoundScratch : WideGroupScratch<Rows> {
    float scales[Rows];
};

template <class Shape>
__device__ __forceinline__ WideRoundScratch<Shape::kMostRows>& round_scratch(const WideArgs& args) {
    extern __shared__ __align__(1024) std::uint8_t shared[];
    static_assert(sizeof(WideRoundScratch<Shape::kMostRows>) ==
                  Shape::kMostRows * kWideRoundRowBytes + kWideGroupBytes);
    return *reinterpret_cast<WideRoundScratch<Shape::kMostRows>*>(shared + args.lists.group);
}

/// Gates become results, zeros in strips that the matrix does not have.
template <class Shape, int Eights>
__device__ __forceinline__ void activate_rounded(const WideArgs& args, const WideUnit& unit, int first,
                                                 const WideLaneRows<Shape, false> (&rows)[2],
                                                 float (&sums)[2][Eights][4]) {
    const WideQuickActivation activation(args.activation);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        prepare_gates<Shape>(args, rows[i], sums[i]);
        if ((unit.strip + first + i) * 32 < args.down.cols) continue;  // which are whole strips
        clear_strip(sums[i]);
    }
    activate_strips(activation, sums);
}

/// Results become e4m3 and what that is worth.
template <class Shape, int Eights>
__device__ __forceinline__ void store_rounded(const WideArgs& args, const WideUnit& unit, int first,
                                              const WideConsumer& me, std::uint8_t* patch,
                                              const float (&sums)[2][Eights][4]) {
    auto& scratch = round_scratch<Shape>(args);
    constexpr int consumers = Shape::kConsumerWarps * 32;
    find_wide_largest(scratch, 0, me.lane, sums);
    ptx::named_barrier(1, consumers);
    for (int row = static_cast<int>(threadIdx.x); row < Shape::kMostRows; row += consumers) {
        const auto scale = tokamak::cuda::E4m3Scale::of(__uint_as_float(scratch.largest[row]));
        scratch.largest[row] = 0;
        scratch.inverses[row] = scale.inverse;
        scratch.scales[row] = scale.scale;
    }
    ptx::named_barrier(1, consumers);
    const TileRows to(args.intermediate, unit.first, unit.rows, args.down.padded_cols);
    const std::uint32_t own = ptx::shared_address(patch) + static_cast<std::uint32_t>(me.lane) * 16;
    const auto* const inverses = reinterpret_cast<const float2*>(scratch.inverses) + me.lane % 4;
    const auto* const scales = reinterpret_cast<const float2*>(scratch.scales) + me.lane % 4;
#pragma unroll
    for (int four = 0; four < Eights; four += 4)
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            std::uint32_t pairs[4] = {};
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                const int n = four + j;
                if (n >= Eights) break;
                const float2 inverse = inverses[n * 4];
                const float2 scale = scales[n * 4];
                pairs[j] = rounded_pair(tokamak::cuda::e4m3_codes(sums[i][n][0] * inverse.x, sums[i][n][1] * inverse.y),
                                        scale.x, scale.y);
            }
            __syncwarp();
            ptx::store_matrix_transposed_x4(own, pairs);
            __syncwarp();
            const int row = four * 8 + me.lane;
            const int col = (unit.strip + first + i) * 32 + me.slab * 8;
            if (row < unit.rows && col < args.down.cols)
                *reinterpret_cast<uint4*>(to.place(row, col / 8)) =
                    *reinterpret_cast<const uint4*>(patch + me.lane * 16);
        }
}

/// By all consumers of the CTA, also those without a strip. Biases are asked for before what the warp had not told of
/// the unit before is told.
template <class Shape, int Eights>
__device__ __forceinline__ void finish_rounded_gate_up(const WideArgs& args, const WideUnit& unit, int first, int last,
                                                       const WideConsumer& me, std::uint8_t* patch,
                                                       float (&sums)[2][Eights][4]) {
    WideLaneRows<Shape, false> rows[2];
#pragma unroll
    for (int i = 0; i < 2; ++i)
        if (first + i < last) rows[i].load(args, unit.expert, unit.strip + first + i, me);
    WidePending::tell(args, patch, me.lane, args.tile_parts);
    activate_rounded<Shape>(args, unit, first, rows, sums);
    store_rounded<Shape>(args, unit, first, me, patch, sums);
    WidePending::put(patch, me.lane, unit.tile, max(0, min(first + 2, last) - first), unit.strips * 4);
}

}  // namespace tokamak::moe::cuda
