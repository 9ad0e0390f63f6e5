// SPDX-License-Identifier: Apache-2.0
// What becomes of the sums of a unit whose biases, factors and routes were brought into shared memory. Every
// instruction here runs once in 40,000 cycles and takes six of them.
#pragma once

#include <cstdint>

#include "moe/cuda/wide/finish.cuh"
#include "moe/cuda/wide/unit_end.cuh"

namespace tokamak::moe::cuda {

struct WideKnownElement {
    float known;
    [[nodiscard]] __device__ __forceinline__ float value() const { return known; }
};

/// As WideLaneRows.
template <class Shape>
struct WideBroughtRows {
    float scale_low = Shape::Weights::kSumScale;
    float scale_high = Shape::Weights::kSumScale;
    WideKnownElement low;
    WideKnownElement high;

    /// Of strip `i` of the unit.
    __device__ __forceinline__ WideBroughtRows(const WideUnitEnd<Shape>& end, int i, const WideConsumer& me) {
        const float2 biases = end.biases[i * 32 + me.slab * 8 + me.lane / 4];
        low.known = biases.x;
        high.known = biases.y;
        if constexpr (Shape::Weights::kGlobalScales) {
            scale_low *= end.factors[i].x;
            scale_high *= end.factors[i].y;
        }
    }
};

/// Where a lane stores eight columns of the intermediate: of row `lane` of each 32, by a strip and the warp's slab.
class WideLaneColumns {
  public:
    __device__ __forceinline__ WideLaneColumns(const WideArgs& args, const WideUnit& unit, int strip,
                                               const WideConsumer& me)
        : rows_(unit.rows), lane_(me.lane), left_(args.down.cols - strip * 32 - me.slab * 8) {
        const TileRows tile(args.intermediate, unit.first, rows_, args.down.padded_cols);
        const auto eight = static_cast<std::uint32_t>(strip) * 4 + static_cast<std::uint32_t>(me.slab);
        const auto row = static_cast<std::uint32_t>(me.lane);
        to_ = tile.base + ((eight / 8 * static_cast<std::uint32_t>(rows_) + row) * 128 + ((eight ^ row) % 8 << 4));
    }
    /// From the lane's place in the patch.
    __device__ __forceinline__ void store(int first_row, const std::uint8_t* patch) const {
        if (first_row + lane_ < rows_) store_turned(to_ + first_row * 128, left_, patch);
    }

  private:
    int rows_;
    int lane_;
    int left_;
    std::uint8_t* to_;
};

template <class Shape, int Eights>
__device__ __forceinline__ void finish_brought_gate_up(const WideArgs& args, const WideUnit& unit, int strip,
                                                       const WideConsumer& me, std::uint8_t* patch,
                                                       const WideBroughtRows<Shape>& rows, float (&sums)[Eights][4]) {
    const WideLaneColumns columns(args, unit, strip, me);
    prepare_gates<Shape>(args, rows, sums);
    const WideGate gate{WideActivation(args.activation).alpha * -1.44269504F};
    std::uint8_t* const own = patch + me.lane * 16;
    turn_results(gate, ptx::shared_address(own), sums, [&](int first) { columns.store(first, own); });
}

/// Of all strips of a warpgroup, which lie together.
template <class Shape, int Strips, int Eights>
__device__ __forceinline__ void finish_brought_down(const WideArgs& args, int strip, int count,
                                                    const WideUnitEnd<Shape>& end, int first, const WideConsumer& me,
                                                    const float (&sums)[Strips][Eights][4]) {
    const int col = strip * 64 + me.slab * 16 + me.lane / 4;
    const int left = min(args.gate_up.cols, (strip + count) * 64) - col;
    const std::int64_t stride = wide_result_stride(args, false);
    float* const to = args.partials + col;
    const auto* const routes = reinterpret_cast<const int2*>(end.routes) + me.lane % 4;
    float scales[Strips][2];
    float biases[Strips][2];
#pragma unroll
    for (int i = 0; i < Strips; ++i) {
        const WideBroughtRows<Shape> rows(end, first + i, me);
        scales[i][0] = rows.scale_low;
        scales[i][1] = rows.scale_high;
        biases[i][0] = rows.low.value();
        biases[i][1] = rows.high.value();
    }
#pragma unroll
    for (int n = 0; n < Eights; ++n) {
        const int2 both = routes[n * 4];
#pragma unroll
        for (int odd = 0; odd < 2; ++odd) {
            const int route = odd == 0 ? both.x : both.y;
            if (route < 0) continue;
            float* const row = to + route * stride;
#pragma unroll
            for (int i = 0; i < Strips; ++i)
#pragma unroll
                for (int high = 0; high < 2; ++high)
                    if (left > i * 64 + high * 8)
                        row[i * 64 + high * 8] = fmaf(sums[i][n][high * 2 + odd], scales[i][high], biases[i][high]);
        }
    }
}

}  // namespace tokamak::moe::cuda
