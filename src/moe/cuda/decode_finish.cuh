// SPDX-License-Identifier: Apache-2.0
// What becomes of a strip's 64 rows x 8 tokens of partial sums.
#pragma once

#include <cstdint>

#include "moe/cuda/decode_routing.cuh"
#include "moe/cuda/decode_rows.cuh"
#include "moe/cuda/decode_stream.cuh"

namespace tokamak::moe::cuda {

inline constexpr int kStripSums = tokamak::cuda::kTileRows * kPassTokens;

/// One warp's sums of a strip go to its place among the team's, [64 rows, 8 tokens].
__device__ __forceinline__ void store_sums(float* partials, int lane,
                                           const float (&sums)[tokamak::cuda::kTileSlabs][4]) {
    float* const rows = partials + lane / 4 * kPassTokens + lane % 4 * 2;
#pragma unroll
    for (int slab = 0; slab < tokamak::cuda::kTileSlabs; ++slab) {
        *reinterpret_cast<float2*>(rows + slab * 16 * kPassTokens) = {sums[slab][0], sums[slab][1]};
        *reinterpret_cast<float2*>(rows + (slab * 16 + 8) * kPassTokens) = {sums[slab][2], sums[slab][3]};
    }
}

/// Sum over the team's warps in the order of their columns, which no routing changes.
template <class Decode>
__device__ __forceinline__ float row_sum(const float* partials, int warps, int row, int token) {
    constexpr int most = 12;
    float sum = 0.0F;
#pragma unroll
    for (int i = 0; i < most; ++i)
        if (i < warps) sum += partials[i * kStripSums + row * kPassTokens + token];
    return sum * (row % 16 < 8 ? Decode::kRowScaleLow : Decode::kRowScaleHigh);
}

/// A strip of gate/up rows: 32 columns of the intermediate. Biases are loaded before the strip is multiplied.
template <class Tile>
class GateUpFinish {
    static constexpr int kOutputs = 2;  ///< of a thread, for teams of 4 warps and more

  public:
    __device__ GateUpFinish(const DecodeArgs& args, const RoutingTables& tables, const Team& team, int rank, int strip)
        : args_(args), team_(team) {
        const std::int64_t expert = tables.active[rank];
#pragma unroll
        for (int n = 0; n < kOutputs; ++n) {
            const int at = team.thread() + n * team.threads();
            col_[n] = strip * 32 + at / kPassTokens;
            const bool mine = at < kStripSums / 2 && col_[n] < args.down.cols;
            slot_[n] = mine ? tables.slot(rank, at % kPassTokens) : kNoSlot;
            if (slot_[n] == kNoSlot || args.gate_up.bias.data == nullptr) continue;
            gate_[n].load(args.gate_up.bias, expert, col_[n]);
            up_[n].load(args.gate_up.bias, expert, args.down.cols + col_[n]);
        }
    }

    __device__ void finish(const float* partials) const {
        using Decode = typename Tile::Decode;
#pragma unroll
        for (int n = 0; n < kOutputs; ++n) {
            if (slot_[n] == kNoSlot) continue;
            const int at = team_.thread() + n * team_.threads();
            const int row = at / kPassTokens / 8 * 16 + at / kPassTokens % 8;
            const float gate = row_sum<Decode>(partials, team_.warps, row, at % kPassTokens) + gate_[n].value();
            const float up = row_sum<Decode>(partials, team_.warps, row + 8, at % kPassTokens) + up_[n].value();
            static_cast<__nv_bfloat16*>(
                args_.intermediate)[static_cast<std::int64_t>(slot_[n]) * args_.down.cols + col_[n]] =
                __float2bfloat16_rn(activate(args_.activation, gate, up));
        }
    }

  private:
    const DecodeArgs& args_;
    const Team& team_;
    int col_[kOutputs];
    int slot_[kOutputs];
    PendingElement gate_[kOutputs];
    PendingElement up_[kOutputs];
};

/// A strip of down rows: 64 columns of the routes' results, not yet weighted.
template <class Tile>
class DownFinish {
    static constexpr int kOutputs = 4;

  public:
    __device__ DownFinish(const DecodeArgs& args, const RoutingTables& tables, const Team& team, int rank, int strip)
        : args_(args), team_(team) {
        const std::int64_t expert = tables.active[rank];
#pragma unroll
        for (int n = 0; n < kOutputs; ++n) {
            const int at = team.thread() + n * team.threads();
            col_[n] = strip * tokamak::cuda::kTileRows + at / kPassTokens;
            const bool mine = at < kStripSums && col_[n] < args.gate_up.cols;
            slot_[n] = mine ? tables.slot(rank, at % kPassTokens) : kNoSlot;
            if (slot_[n] != kNoSlot && args.down.bias.data != nullptr) bias_[n].load(args.down.bias, expert, col_[n]);
        }
    }

    __device__ void finish(const float* partials) const {
        using Decode = typename Tile::Decode;
#pragma unroll
        for (int n = 0; n < kOutputs; ++n) {
            if (slot_[n] == kNoSlot) continue;
            const int at = team_.thread() + n * team_.threads();
            const float sum = row_sum<Decode>(partials, team_.warps, at / kPassTokens, at % kPassTokens);
            args_.partials[static_cast<std::int64_t>(slot_[n]) * args_.gate_up.cols + col_[n]] = sum + bias_[n].value();
        }
    }

  private:
    const DecodeArgs& args_;
    const Team& team_;
    int col_[kOutputs];
    int slot_[kOutputs];
    PendingElement bias_[kOutputs];
};

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
            const std::int64_t from = tables.slot(rank, token);
            sum = fmaf(tables.route_weight[route], __ldcg(args.partials + from * hidden + col), sum);
        }
        const std::int64_t row = first + token;
        if (args.shared_output.data != nullptr) sum += load_element(args.shared_output, row, col);
        const std::int64_t to = row * args.out_stride + col;
        if (args.accumulate) sum += load_element(args.out, args.out_dtype, to);
        store_element(args.out, args.out_dtype, to, sum);
    }
}

}  // namespace tokamak::moe::cuda
