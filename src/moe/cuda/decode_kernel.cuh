// SPDX-License-Identifier: Apache-2.0
// The whole MoE layer for few tokens in one cooperative launch of one CTA per SM (docs/kernels/moe_decode.md).
#pragma once

#include <cooperative_groups.h>

#include <cstdint>
#include <type_traits>

#include "moe/cuda/decode_finish.cuh"

namespace tokamak::moe::cuda {

/// Parts of a CTA that both phases use.
struct Cta {
    const DecodeArgs& args;
    RoutingTables tables;
    float* partials;      ///< [2, warps, rows of a piece, 8]: each team has a run of its own
    float* gate_up_bias;  ///< [teams, 2, 64]
    float* down_bias;     ///< overlaps the rows of x
    std::uint8_t* rows;
    float* groups;

    __device__ Cta(const DecodeArgs& a, std::uint8_t* shared)
        : args(a),
          tables(shared, a),
          partials(reinterpret_cast<float*>(shared + a.shared.partials)),
          gate_up_bias(reinterpret_cast<float*>(shared + a.shared.gate_up_bias)),
          down_bias(reinterpret_cast<float*>(shared + a.shared.down_bias)),
          rows(shared + a.shared.rows),
          groups(reinterpret_cast<float*>(shared + a.shared.groups)) {}

    template <bool Down>
    [[nodiscard]] __device__ std::uint8_t* rows_of(const Team& team) const {
        return rows + team.index * (Down ? args.shared.team_rows : args.shared.x_team_rows);
    }
    template <bool Down>
    [[nodiscard]] __device__ float* groups_of(const Team& team) const {
        return groups + team.index * (Down ? args.shared.team_groups : args.shared.x_team_groups);
    }
};

/// The intermediate rows of the tokens that go to an active expert, into the team's own part.
template <class Tile>
__device__ __forceinline__ void load_intermediate(const Cta& cta, const Team& team, int rank, const TokenList& list) {
    constexpr bool quantized = Tile::kForm == tokamak::cuda::TokenForm::quantized;
    using Element = std::conditional_t<quantized, float, __nv_bfloat16>;
    const DecodeArgs& args = cta.args;
    const RowCopy copy{.cols = args.down.cols,
                       .padded_cols = args.down.padded_cols,
                       .rows = cta.rows_of<true>(team),
                       .groups = cta.groups_of<true>(team),
                       .thread = team.thread(),
                       .threads = team.threads()};
    const auto* const base = static_cast<const Element*>(args.intermediate);
    load_rows<Tile, Element>(copy, list, [&](int token) {
        return RowSource<Element>{base + cta.tables.slot(rank, token) * args.intermediate_stride};
    });
    team.barrier();
}

/// The token rows of a pass for the whole CTA, or, times their routing weights, those of one expert for a team.
struct TokenRows {
    const Cta& cta;
    std::int64_t first;  ///< token of the pass

    /// Those that this CTA's experts see, and no others: eight rows take far longer than the first weights.
    template <class Tile>
    __device__ __forceinline__ void load() const {
        const int strips = cta.args.gate_up.strips;
        const StripRange range(cta.tables.active_count() * strips);
        if (range.first == range.last) return;
        const TokenList list = cta.tables.tokens(range.first / strips, (range.last - 1) / strips);
        RowCopy copy = copy_to(cta.rows, cta.groups);
        copy.thread = static_cast<int>(threadIdx.x);
        copy.threads = static_cast<int>(blockDim.x);
        load_rows<Tile, __nv_bfloat16>(copy, list, [&](int token) { return RowSource<__nv_bfloat16>{row(token)}; });
    }

    template <class Tile>
    __device__ __forceinline__ void load_weighted(const Team& team, int rank, const TokenList& list) const {
        RowCopy copy = copy_to(cta.rows_of<false>(team), cta.groups_of<false>(team));
        copy.weighted = true;
        copy.thread = team.thread();
        copy.threads = team.threads();
        load_rows<Tile, __nv_bfloat16>(copy, list, [&](int token) {
            return RowSource<__nv_bfloat16>{row(token), cta.tables.route_weight[cta.tables.slot(rank, token)]};
        });
        team.barrier();
    }

  private:
    [[nodiscard]] __device__ const __nv_bfloat16* row(int token) const {
        return static_cast<const __nv_bfloat16*>(cta.args.x) + (first + token) * cta.args.x_stride;
    }
    [[nodiscard]] __device__ RowCopy copy_to(std::uint8_t* rows, float* groups) const {
        return {.cols = cta.args.gate_up.cols,
                .padded_cols = cta.args.gate_up.padded_cols,
                .vectors = cta.args.x_vectors,
                .rows = rows,
                .groups = groups};
    }
};

/// What the last 128 bytes of a strip begin with.
__device__ __forceinline__ float2 global_scales(const DecodeMatrix& matrix, int expert, int strip) {
    const std::int64_t end = expert * matrix.expert_bytes + (strip + 1) * matrix.strip_bytes;
    return __ldg(reinterpret_cast<const float2*>(matrix.packed + end - 128));
}

/// One arrived piece times the tokens.
template <class Tile>
__device__ __forceinline__ void multiply(const ArrivedPiece& piece, std::uint32_t x_address, const float* groups,
                                         int lane, float (&sums)[Tile::kSlabs][4]) {
    if constexpr (Tile::kPieces == 1)
        tokamak::cuda::multiply_tile<Tile>(piece.weights, x_address, groups, lane, sums);
    else
        tokamak::cuda::multiply_piece<Tile>(piece.weights, piece.scales, x_address, groups, lane, sums);
}

/// Multiplies the team's strips of one phase. A warp takes every `warps`-th piece of the team's run, so that its ring
/// crosses strips; which of a strip's columns it gets then depends on the strip, but its sums are filed by columns.
/// (An even number of warps where a tile has two pieces: a warp always has the same rows.)
template <class Tile, bool Down>
__device__ __forceinline__ void run_phase(const Cta& cta, const Team& team, const TokenRows& x, WarpRing<Tile>& ring,
                                          TileCursor<Tile>& cursor) {
    constexpr int piece_sums = kStripSums / Tile::kPieces;
    constexpr int tile_bytes = Tile::kCols * tokamak::cuda::token_value_bytes(Tile::kForm);
    const DecodeArgs& args = cta.args;
    const DecodeMatrix& matrix = Down ? args.down : args.gate_up;
    const StripRange range(cta.tables.active_count() * matrix.strips, team);
    const float* const groups = cta.groups_of<Down>(team);
    const int pitch = tokamak::cuda::token_pitch<Tile>(matrix.padded_cols);
    const std::uint32_t x_address = tokamak::cuda::token_address(cta.rows_of<Down>(team), pitch, team.lane);
    const int pieces = matrix.tiles * Tile::kPieces;
    int rank = range.first / matrix.strips;
    int strip = range.first % matrix.strips;
    int seen = -1;  // rank that `tokens` belongs to
    TokenList tokens;
    int turn = 0;    // warp that has the strip's first piece
    int buffer = 0;  // two, so that a strip costs one barrier
    for (int left = range.last - range.first; left > 0; --left) {
        if (rank != seen) {
            tokens = cta.tables.tokens(rank, rank);
            if constexpr (Down)
                load_intermediate<Tile>(cta, team, rank, tokens);
            else if (args.weight_input)
                x.load_weighted<Tile>(team, rank, tokens);
            seen = rank;
        }
        StripBias<Down> bias;
        const int expert = cta.tables.active[rank];
        bias.load(args, team, expert, strip);
        float2 scales{1.0F, 1.0F};
        if constexpr (Tile::kGlobalScales) scales = global_scales(matrix, expert, strip);
        float accumulators[Tile::kSlabs][4] = {};
        const int first = team.warp >= turn ? team.warp - turn : team.warp - turn + team.warps;
        for (int piece = first; piece < pieces; piece += team.warps) {
            const int tile = piece / Tile::kPieces;
            multiply<Tile>(ring.wait(), x_address + tile * tile_bytes, groups + tile * Tile::kGroups * kPassTokens,
                           team.lane, accumulators);
            ring.release(cursor);
        }
        float* const partials = cta.partials + (team.index * 2 + buffer) * team.warps * piece_sums;
        float* const strip_bias =
            (Down ? cta.down_bias : cta.gate_up_bias) + (team.index * 2 + buffer) * tokamak::cuda::kTileRows;
        store_sums(partials + first * piece_sums, team.lane, accumulators);
        bias.store(team, strip_bias);
        team.barrier();
        const StripSums strip_sums{partials, strip_bias, scales, tokens, rank, strip};
        if constexpr (Down)
            finish_down<Tile>(args, cta.tables, team, strip_sums);
        else
            finish_gate_up<Tile>(args, cta.tables, team, strip_sums);
        buffer ^= 1;
        turn = (turn + pieces) % team.warps;
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
    const int slot = static_cast<int>(threadIdx.x) / 32 * args.slots;
    WarpRing<Tile> ring(shared + slot * Tile::kBytes, shared + args.shared.scales + slot * 8,
                        reinterpret_cast<std::uint64_t*>(shared + args.shared.barriers) + slot, args.slots,
                        gate_up.lane);
    const std::int64_t tokens = live_tokens(args);
    for (std::int64_t first = 0; first < tokens; first += kPassTokens) {
        const int count = static_cast<int>(min(static_cast<std::int64_t>(kPassTokens), tokens - first));
        const TokenRows x{cta, first};
        int rounds = 1;
        for (int round = 0; round < rounds; ++round) {
            __syncthreads();  // the tables of the last pass have been read
            build_tables(args, cta.tables, first, count, round);
            __syncthreads();
            rounds = *cta.tables.rounds;
            TileCursor<Tile> cursor(args, gate_up, down, cta.tables.active, cta.tables.active_count());
            ring.prime(cursor);
            if (!args.weight_input) x.load<Tile>();
            __syncthreads();
            run_phase<Tile, false>(cta, gate_up, x, ring, cursor);
            grid.sync();  // the down weights arrive meanwhile
            run_phase<Tile, true>(cta, down, x, ring, cursor);
            grid.sync();
        }
        combine(args, cta.tables, first, count);
    }
}

template <class Tile, int Warps>
DecodeInstance decode_instance() {
    using tokamak::cuda::TokenForm;
    return {.kernel = reinterpret_cast<const void*>(&moe_decode<Tile, Warps>),
            .warps = Warps,
            .piece_bytes = Tile::kBytes,
            .pieces = Tile::kPieces,
            .tile_cols = Tile::kCols,
            .value_bytes = tokamak::cuda::token_value_bytes(Tile::kForm),
            .group = Tile::kGroup,
            .token_groups = Tile::Decode::kHasZeroPoint || Tile::kForm == TokenForm::quantized,
            .strip_scales = Tile::kStripScales};
}

}  // namespace tokamak::moe::cuda
