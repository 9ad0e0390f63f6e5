// SPDX-License-Identifier: Apache-2.0
// What becomes of a strip's 64 rows x 8 tokens of partial sums.
#pragma once

#include <cstdint>

#include "moe/cuda/decode_routing.cuh"
#include "moe/cuda/decode_rows.cuh"
#include "moe/cuda/decode_stream.cuh"

namespace tokamak::moe::cuda {

/// Place of a sum among a warp's [columns, rows of a piece]; the rows are permuted so that no two lanes of store_sums
/// share a bank.
template <int Rows>
__device__ __forceinline__ int sum_place(int column, int row) {
    return column * Rows + (row ^ column / 2 * 8);
}

/// What a lane's sums of a strip belong to: those of two neighbouring columns for rows g and g + 8 of some slabs.
struct SumPlace {
    int column;     ///< the first
    int row;        ///< in the first slab
    int slab_rows;  ///< from one of the lane's slabs to the next
    int slabs;
};

/// One warp's sums of a strip go to its place among the team's, [columns, rows of a piece].
template <int Slabs>
__device__ __forceinline__ void store_sums(float* partials, const SumPlace& place, int columns,
                                           const float (&sums)[Slabs][4]) {
    constexpr int rows = Slabs * 16;
    if (place.column >= columns) return;
    float* const even = partials + place.column * rows;
    float* const odd = even + rows;
#pragma unroll
    for (int slab = 0; slab < Slabs; ++slab) {
        if (slab >= place.slabs) continue;
        const int low = (place.row + slab * place.slab_rows) ^ place.column / 2 * 8;
        const int high = low ^ 8;
        even[low] = sums[slab][0];
        odd[low] = sums[slab][1];
        even[high] = sums[slab][2];
        odd[high] = sums[slab][3];
    }
}

/// Biases of a strip's 64 packed rows: loaded before the strip is multiplied, needed after it.
template <bool Down>
class StripBias {
    static constexpr int kRows = tokamak::cuda::kTileRows;
    static constexpr int kMost = 2;  ///< rows of a thread, for teams of one warp

  public:
    __device__ void load(const DecodeArgs& args, const Team& team, int expert, int strip) {
        const DecodeRows& bias = Down ? args.down.bias : args.gate_up.bias;
        if (bias.data == nullptr) return;
#pragma unroll
        for (int n = 0; n < kMost; ++n) {
            const int row = team.thread() + n * team.threads();
            if (row >= kRows) continue;
            if constexpr (Down) {
                const int col = strip * kRows + row;
                if (col < args.gate_up.cols) value_[n].load(bias, expert, col);
            } else {
                const int col = strip * 32 + row / 16 * 8 + row % 8;
                if (col < args.down.cols) value_[n].load(bias, expert, row % 16 < 8 ? col : args.down.cols + col);
            }
        }
    }
    /// To the strip's place in shared memory, [64].
    __device__ void store(const Team& team, float* to) const {
#pragma unroll
        for (int n = 0; n < kMost; ++n) {
            const int row = team.thread() + n * team.threads();
            if (row < kRows) to[row] = value_[n].value();
        }
    }

  private:
    PendingElement value_[kMost];
};

/// What a team has of a finished strip.
struct StripSums {
    const float* partials;
    const float* bias;
    float2 scales;     ///< global ones of rows g and g + 8, for formats that have them
    TokenList tokens;  ///< routed to the expert: nobody looks at the sums of the others
    int columns;       ///< tokens that partials hold
    bool folded;       ///< column i is that of the i-th token
    int rank;
    int strip;

    [[nodiscard]] __device__ int column(int i) const { return folded ? i : tokens.at(i); }
};

/// Sum over the team's warps that have the row, in the order of their columns, which no routing changes.
template <class Tile>
__device__ __forceinline__ float row_sum(const StripSums& strip, int warps, int row, int column) {
    using Decode = typename Tile::Decode;
    constexpr int rows = tokamak::cuda::kTileRows / Tile::kPieces;
    const int first = row / rows;  // warp that has the row
    const float* const from = strip.partials + first * rows * strip.columns + sum_place<rows>(column, row % rows);
    float sum = 0.0F;
#pragma unroll 4
    for (int i = 0; i < warps - first; i += Tile::kPieces) sum += from[i * rows * strip.columns];
    sum *= row % 16 < 8 ? Decode::kRowScaleLow : Decode::kRowScaleHigh;
    if constexpr (Tile::kGlobalScales) sum *= row % 16 < 8 ? strip.scales.x : strip.scales.y;
    return sum;
}

/// A strip of gate/up rows: 32 columns of the intermediate. Those beyond the true ones are zero.
template <class Tile, class Tables>
__device__ __forceinline__ void finish_gate_up(const DecodeArgs& args, const Tables& tables, const Team& team,
                                               const StripSums& sums) {
    const int total = sums.tokens.count * 32;
#pragma unroll 1
    for (int at = team.thread(); at < total; at += team.threads()) {
        const int token = sums.tokens.at(at / 32);
        const int col = sums.strip * 32 + at % 32;
        if (col >= args.intermediate_stride) continue;
        const int row = at % 32 / 8 * 16 + at % 8;
        const int column = sums.column(at / 32);
        const float gate = row_sum<Tile>(sums, team.warps, row, column) + sums.bias[row];
        const float up = row_sum<Tile>(sums, team.warps, row + 8, column) + sums.bias[row + 8];
        const float value = activate(args.activation, gate, up);
        const std::int64_t to = tables.slot(sums.rank, token) * args.intermediate_stride + col;
        if constexpr (Tile::kForm == tokamak::cuda::TokenForm::quantized)
            static_cast<float*>(args.intermediate)[to] = value;
        else
            static_cast<__nv_bfloat16*>(args.intermediate)[to] = __float2bfloat16_rn(value);
    }
}

/// A strip of down rows: 64 columns of the routes' results, not yet weighted.
template <class Tile, class Tables>
__device__ __forceinline__ void finish_down(const DecodeArgs& args, const Tables& tables, const Team& team,
                                            const StripSums& sums) {
    const int total = sums.tokens.count * tokamak::cuda::kTileRows;
#pragma unroll 1
    for (int at = team.thread(); at < total; at += team.threads()) {
        const int token = sums.tokens.at(at / tokamak::cuda::kTileRows);
        const int row = at % tokamak::cuda::kTileRows;
        const int col = sums.strip * tokamak::cuda::kTileRows + row;
        if (col >= args.gate_up.cols) continue;
        args.partials[static_cast<std::int64_t>(tables.slot(sums.rank, token)) * args.gate_up.cols + col] =
            row_sum<Tile>(sums, team.warps, row, sums.column(at / tokamak::cuda::kTileRows)) + sums.bias[row];
    }
}

/// The same where each warp of the team has its rows' whole sums: from its registers.
template <class Tile, class Tables>
__device__ __forceinline__ void finish_down_alone(const DecodeArgs& args, const Tables& tables, const StripSums& strip,
                                                  const SumPlace& place, const float (&sums)[Tile::kSlabs][4]) {
    using Decode = typename Tile::Decode;
    const int col = strip.strip * tokamak::cuda::kTileRows + place.row;
    float scale[2] = {Decode::kRowScaleLow, Decode::kRowScaleHigh};
    if constexpr (Tile::kGlobalScales) {
        scale[0] *= strip.scales.x;
        scale[1] *= strip.scales.y;
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        const int column = place.column + i;
        int slot = -1;
        if (!strip.folded)
            slot = tables.column_slot(strip.rank, column);
        else if (column < strip.tokens.count)
            slot = tables.slot(strip.rank, strip.tokens.at(column));
        if (slot < 0) continue;
        float* const to = args.partials + static_cast<std::int64_t>(slot) * args.gate_up.cols + col;
#pragma unroll
        for (int slab = 0; slab < Tile::kSlabs; ++slab) {
            if (slab >= place.slabs) continue;
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const int more = slab * place.slab_rows + half * 8;
                if (col + more < args.gate_up.cols)
                    to[more] = sums[slab][half * 2 + i] * scale[half] + strip.bias[place.row + more];
            }
        }
    }
}

}  // namespace tokamak::moe::cuda
