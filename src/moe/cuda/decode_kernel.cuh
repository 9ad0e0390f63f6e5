// SPDX-License-Identifier: Apache-2.0
// The whole MoE layer for few tokens in one cooperative launch of one CTA per SM (docs/kernels/moe_decode.md).
#pragma once

#include <cooperative_groups.h>

#include <cstdint>

#include "moe/cuda/decode_finish.cuh"

namespace tokamak::moe::cuda {

/// Parts of a CTA that both phases use.
struct Cta {
    const DecodeArgs& args;
    RoutingTables tables;
    float* partials;      ///< [2, warps, kStripSums]: each team has a run of its own
    float* gate_up_bias;  ///< [teams, 2, 64]
    float* down_bias;     ///< overlaps the rows of x
    __nv_bfloat16* rows;
    float* sums;

    __device__ Cta(const DecodeArgs& a, std::uint8_t* shared)
        : args(a),
          tables(shared, a),
          partials(reinterpret_cast<float*>(shared + a.shared.partials)),
          gate_up_bias(reinterpret_cast<float*>(shared + a.shared.gate_up_bias)),
          down_bias(reinterpret_cast<float*>(shared + a.shared.down_bias)),
          rows(reinterpret_cast<__nv_bfloat16*>(shared + a.shared.rows)),
          sums(reinterpret_cast<float*>(shared + a.shared.sums)) {}
};

/// The intermediate rows of the tokens that go to an active expert, into the team's own part.
template <class Tile>
__device__ __forceinline__ void load_intermediate(const Cta& cta, const Team& team, int rank, const TokenList& list) {
    const DecodeArgs& args = cta.args;
    const RowCopy copy{.cols = args.down.cols,
                       .padded_cols = args.down.padded_cols,
                       .rows = cta.rows + team.index * args.shared.team_rows,
                       .sums = cta.sums + team.index * args.shared.team_sums,
                       .thread = team.thread(),
                       .threads = team.threads()};
    const auto* const base = static_cast<const __nv_bfloat16*>(args.intermediate);
    load_rows<Tile>(copy, list, [&](int token) {
        return base + static_cast<std::int64_t>(cta.tables.slot(rank, token)) * args.down.cols;
    });
    team.barrier();
}

/// The rows of the tokens that this CTA's experts see, and no others: eight rows take far longer than the first
/// weights.
template <class Tile>
__device__ __forceinline__ void load_tokens(const Cta& cta, std::int64_t first) {
    const DecodeArgs& args = cta.args;
    const StripRange range(cta.tables.active_count() * args.gate_up.strips);
    if (range.first == range.last) return;
    const TokenList list = cta.tables.tokens(range.first / args.gate_up.strips, (range.last - 1) / args.gate_up.strips);
    const RowCopy copy{.cols = args.gate_up.cols,
                       .padded_cols = args.gate_up.padded_cols,
                       .vectors = args.x_vectors,
                       .rows = cta.rows,
                       .sums = cta.sums,
                       .thread = static_cast<int>(threadIdx.x),
                       .threads = static_cast<int>(blockDim.x)};
    const auto* const base = static_cast<const __nv_bfloat16*>(args.x) + first * args.x_stride;
    load_rows<Tile>(copy, list, [&](int token) { return base + token * args.x_stride; });
}

/// Multiplies the team's strips of one phase. A warp takes every `warps`-th tile of the team's run, so that its ring
/// crosses strips; which of a strip's columns it gets then depends on the strip, but its sums are filed by columns.
template <class Tile, bool Down>
__device__ __forceinline__ void run_phase(const Cta& cta, const Team& team, WarpRing<Tile::kBytes>& ring,
                                          TileCursor<Tile::kBytes>& cursor) {
    using Decode = typename Tile::Decode;
    const DecodeArgs& args = cta.args;
    const DecodeMatrix& matrix = Down ? args.down : args.gate_up;
    const StripRange range(cta.tables.active_count() * matrix.strips, team);
    const __nv_bfloat16* const rows = cta.rows + (Down ? team.index * args.shared.team_rows : 0);
    const float* const sums = cta.sums + (Down ? team.index * args.shared.team_sums : 0);
    const int stride = tokamak::cuda::token_stride(matrix.padded_cols);
    const std::uint32_t x_address = tokamak::cuda::token_address(rows, stride, team.lane);
    int rank = range.first / matrix.strips;
    int strip = range.first % matrix.strips;
    int seen = -1;  // rank that `tokens` belongs to
    TokenList tokens;
    int turn = 0;    // warp that has the strip's first tile
    int buffer = 0;  // two, so that a strip costs one barrier
    for (int left = range.last - range.first; left > 0; --left) {
        if (rank != seen) {
            tokens = cta.tables.tokens(rank, rank);
            if constexpr (Down) load_intermediate<Tile>(cta, team, rank, tokens);
            seen = rank;
        }
        StripBias<Down> bias;
        bias.load(args, team, cta.tables.active[rank], strip);
        float accumulators[tokamak::cuda::kTileSlabs][4] = {};
        const int first = team.warp >= turn ? team.warp - turn : team.warp - turn + team.warps;
        for (int tile = first; tile < matrix.tiles; tile += team.warps) {
            const std::uint8_t* const weights = ring.wait();
            tokamak::cuda::multiply_tile<Tile>(weights, x_address + tile * Tile::kCols * 2,
                                               sums + tile * Tile::kGroups * kPassTokens, team.lane, accumulators);
            ring.release(cursor);
        }
        float* const partials = cta.partials + (team.index * 2 + buffer) * team.warps * kStripSums;
        float* const strip_bias =
            (Down ? cta.down_bias : cta.gate_up_bias) + (team.index * 2 + buffer) * tokamak::cuda::kTileRows;
        store_sums(partials + first * kStripSums, team.lane, accumulators);
        bias.store(team, strip_bias);
        team.barrier();
        const StripSums strip_sums{partials, strip_bias, tokens, rank, strip};
        if constexpr (Down)
            finish_down<Decode>(args, cta.tables, team, strip_sums);
        else
            finish_gate_up<Decode>(args, cta.tables, team, strip_sums);
        buffer ^= 1;
        turn = (turn + matrix.tiles) % team.warps;
        if (++strip == matrix.strips) {
            strip = 0;
            ++rank;
        }
    }
}

__device__ __forceinline__ std::int64_t live_tokens(const DecodeArgs& args) {
    if (args.num_tokens == nullptr) return args.tokens;
    const std::int64_t given = *args.num_tokens;
    return given < 0 ? 0 : given < args.tokens ? given : args.tokens;
}

template <class Tile, int Warps>
__global__ void __launch_bounds__(Warps * 32, 1) moe_decode(const __grid_constant__ DecodeArgs args) {
    extern __shared__ __align__(128) std::uint8_t shared[];
    const auto grid = cooperative_groups::this_grid();
    const Team gate_up(Warps, args.gate_up_teams);
    const Team down(Warps, args.down_teams);
    const Cta cta(args, shared);
    const int warp = static_cast<int>(threadIdx.x) / 32;
    WarpRing<Tile::kBytes> ring(shared + warp * args.slots * Tile::kBytes,
                                reinterpret_cast<std::uint64_t*>(shared + args.shared.barriers) + warp * args.slots,
                                args.slots, gate_up.lane);
    const std::int64_t tokens = live_tokens(args);
    for (std::int64_t first = 0; first < tokens; first += kPassTokens) {
        const int count = static_cast<int>(min(static_cast<std::int64_t>(kPassTokens), tokens - first));
        __syncthreads();  // the tables of the last pass have been read
        build_tables(args, cta.tables, first, count);
        __syncthreads();
        TileCursor<Tile::kBytes> cursor(args, gate_up, down, cta.tables.active, cta.tables.active_count());
        ring.prime(cursor);
        load_tokens<Tile>(cta, first);
        __syncthreads();
        run_phase<Tile, false>(cta, gate_up, ring, cursor);
        grid.sync();  // the down weights arrive meanwhile
        run_phase<Tile, true>(cta, down, ring, cursor);
        grid.sync();
        combine(args, cta.tables, first, count);
    }
}

template <class Tile, int Warps>
DecodeInstance decode_instance() {
    return {reinterpret_cast<const void*>(&moe_decode<Tile, Warps>),
            Warps,
            Tile::kBytes,
            Tile::kCols,
            Tile::kGroup,
            Tile::Decode::kHasZeroPoint};
}

}  // namespace tokamak::moe::cuda
