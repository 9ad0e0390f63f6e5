// SPDX-License-Identifier: Apache-2.0
// What becomes of a strip's 64 rows x 8 tokens of partial sums.
#pragma once

#include <cstdint>

#include "moe/cuda/decode_routing.cuh"
#include "moe/cuda/decode_rows.cuh"
#include "moe/cuda/decode_stream.cuh"

namespace tokamak::moe::cuda {

inline constexpr int kStripSums = tokamak::cuda::kTileRows * kPassTokens;

/// One warp's sums of a strip go to its place among the team's, [rows of a piece, 8 tokens].
template <int Slabs>
__device__ __forceinline__ void store_sums(float* partials, int lane, const float (&sums)[Slabs][4]) {
    float* const rows = partials + lane / 4 * kPassTokens + lane % 4 * 2;
#pragma unroll
    for (int slab = 0; slab < Slabs; ++slab) {
        *reinterpret_cast<float2*>(rows + slab * 16 * kPassTokens) = {sums[slab][0], sums[slab][1]};
        *reinterpret_cast<float2*>(rows + (slab * 16 + 8) * kPassTokens) = {sums[slab][2], sums[slab][3]};
    }
}

/// Sum over the team's warps that have the row, in the order of their columns, which no routing changes.
template <class Tile>
__device__ __forceinline__ float row_sum(const float* partials, int warps, int row, int token) {
    using Decode = typename Tile::Decode;
    constexpr int most = 12;
    constexpr int rows = tokamak::cuda::kTileRows / Tile::kPieces;
    float sum = 0.0F;
#pragma unroll
    for (int i = 0; i < most; i += Tile::kPieces) {
        const int warp = i + row / rows;
        if (warp < warps) sum += partials[(warp * rows + row % rows) * kPassTokens + token];
    }
    return sum * (row % 16 < 8 ? Decode::kRowScaleLow : Decode::kRowScaleHigh);
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
    int rank;
    int strip;
};

/// A strip of gate/up rows: 32 columns of the intermediate.
template <class Tile>
__device__ __forceinline__ void finish_gate_up(const DecodeArgs& args, const RoutingTables& tables, const Team& team,
                                               const StripSums& sums) {
    for (int at = team.thread(); at < kStripSums / 2; at += team.threads()) {
        const int token = at % kPassTokens;
        const int col = sums.strip * 32 + at / kPassTokens;
        const int slot = tables.slot(sums.rank, token);
        if (slot == kNoSlot || col >= args.down.cols) continue;
        const int row = at / kPassTokens / 8 * 16 + at / kPassTokens % 8;
        const float gate = row_sum<Tile>(sums.partials, team.warps, row, token) + sums.bias[row];
        const float up = row_sum<Tile>(sums.partials, team.warps, row + 8, token) + sums.bias[row + 8];
        const float value = activate(args.activation, gate, up);
        const std::int64_t to = slot * args.intermediate_stride + col;
        if constexpr (Tile::kForm == tokamak::cuda::TokenForm::quantized)
            static_cast<float*>(args.intermediate)[to] = value;
        else
            static_cast<__nv_bfloat16*>(args.intermediate)[to] = __float2bfloat16_rn(value);
    }
}

/// A strip of down rows: 64 columns of the routes' results, not yet weighted.
template <class Tile>
__device__ __forceinline__ void finish_down(const DecodeArgs& args, const RoutingTables& tables, const Team& team,
                                            const StripSums& sums) {
    for (int at = team.thread(); at < kStripSums; at += team.threads()) {
        const int token = at % kPassTokens;
        const int row = at / kPassTokens;
        const int col = sums.strip * tokamak::cuda::kTileRows + row;
        const int slot = tables.slot(sums.rank, token);
        if (slot == kNoSlot || col >= args.gate_up.cols) continue;
        args.partials[static_cast<std::int64_t>(slot) * args.gate_up.cols + col] =
            row_sum<Tile>(sums.partials, team.warps, row, token) + sums.bias[row];
    }
}

/// out = what it held (if asked) + shared output + weighted results in the order of the slots; one rounding.
__device__ inline void combine(const DecodeArgs& args, const RoutingTables& tables, std::int64_t first, int count) {
    const int hidden = args.gate_up.cols;
    const std::int64_t total = static_cast<std::int64_t>(count) * hidden;
    const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * blockDim.x;
    for (std::int64_t at = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; at < total; at += step) {
        const int token = static_cast<int>(at / hidden);
        const int col = static_cast<int>(at - static_cast<std::int64_t>(token) * hidden);
        float sum = 0.0F;
#pragma unroll 4
        for (int slot = 0; slot < args.top_k; ++slot) {
            const int route = token * args.top_k + slot;
            const int rank = tables.route_rank[route];
            if (rank < 0) continue;
            // A row that was weighted at the input is its route's alone.
            const std::int64_t from = args.weight_input ? route : tables.slot(rank, token);
            sum = fmaf(args.weight_input ? 1.0F : tables.route_weight[route],
                       __ldcg(args.partials + from * hidden + col), sum);
        }
        const std::int64_t row = first + token;
        if (args.shared_output.data != nullptr) sum += load_element(args.shared_output, row, col);
        const std::int64_t to = row * args.out_stride + col;
        if (args.accumulate) sum += load_element(args.out, args.out_dtype, to);
        store_element(args.out, args.out_dtype, to, sum);
    }
}

}  // namespace tokamak::moe::cuda
