// SPDX-License-Identifier: Apache-2.0
// One phase of the layer, gate/up or down, as the decode kernel and its gathered form run it.
#pragma once

#include <cstdint>
#include <type_traits>

#include "cuda/decode/folded_tile_n8.cuh"
#include "moe/cuda/decode_finish.cuh"

namespace tokamak::moe::cuda {

/// Parts of a CTA that both phases use.
template <class RouteTables>
struct Cta {
    using Tables = RouteTables;

    const DecodeArgs& args;
    Tables tables;
    float* partials;      ///< [2, warps, rows of a piece, 8]: each team has a run of its own
    float* gate_up_bias;  ///< [teams, 2, 64]
    float* down_bias;     ///< overlaps the rows of x
    std::uint8_t* rows;
    float* groups;
    std::uint8_t* zeros;  ///< 128 bytes, for formats that fold columns

    __device__ Cta(const DecodeArgs& a, std::uint8_t* shared)
        : args(a),
          tables(shared, a),
          partials(reinterpret_cast<float*>(shared + a.shared.partials)),
          gate_up_bias(reinterpret_cast<float*>(shared + a.shared.gate_up_bias)),
          down_bias(reinterpret_cast<float*>(shared + a.shared.down_bias)),
          rows(shared + a.shared.rows),
          groups(reinterpret_cast<float*>(shared + a.shared.groups)),
          zeros(shared + a.shared.scales) {}

    /// Room for the rows of an expert; there are as many as the phase has teams.
    template <bool Down>
    [[nodiscard]] __device__ std::uint8_t* rows_of(int part) const {
        return rows + part * (Down ? args.shared.team_rows : args.shared.x_team_rows);
    }
    template <bool Down>
    [[nodiscard]] __device__ float* groups_of(int part) const {
        return groups + part * (Down ? args.shared.team_groups : args.shared.x_team_groups);
    }
};

/// Who loads the rows of which experts: where the experts that the CTA's strips belong to find room, all of it at once,
/// else each team for itself when its expert changes.
struct RowLoad {
    int first;
    int last;  ///< below `first`: none
    bool whole;
    int team;
    int thread;
    int threads;

    __device__ RowLoad(const Team& own, const Share& share, int rank, int left)
        : first(rank),
          last(left > 0 ? rank : rank - 1),
          whole(share.last_rank - share.first_rank < static_cast<int>(own.teams.count.value)),
          team(own.index),
          thread(own.thread()),
          threads(own.threads()) {
        if (!whole) return;
        first = share.first_rank;
        last = share.last_rank;
        thread = static_cast<int>(threadIdx.x);
        threads = static_cast<int>(blockDim.x);
    }
    [[nodiscard]] __device__ int part(int rank) const { return whole ? rank - first : team; }
    __device__ void barrier(const Team& own) const {
        if (whole)
            __syncthreads();
        else
            own.barrier();
    }
};

/// Loads what `copy_of(rank)` and `source(rank, token)` say; does `meanwhile()` while the first loads are on their way.
template <class Tile, class Element, class Tables, class CopyOf, class Source, class Meanwhile>
__device__ __forceinline__ void load_ranks(const RowLoad& load, const Tables& tables, const CopyOf& copy_of,
                                           const Source& source, const Meanwhile& meanwhile) {
    if constexpr (kCopiesRows<Tile, Element>) {
#pragma unroll 1
        for (int rank = load.first; rank <= load.last; ++rank)
            copy_rows<Tile>(copy_of(rank), tables.tokens_of(rank), [&](int token) { return source(rank, token); });
        tokamak::cuda::ptx::copy_commit();
        meanwhile();
        tokamak::cuda::ptx::copy_wait<0>();
#pragma unroll 1
        for (int rank = load.first; rank <= load.last; ++rank)
            convert_rows<Tile>(copy_of(rank), tables.tokens_of(rank));
    } else {
#pragma unroll 1
        for (int rank = load.first; rank <= max(load.first, load.last); ++rank)
            load_rows<Tile, Element>(
                copy_of(rank), rank <= load.last ? tables.tokens_of(rank) : TokenList{},
                [&](int token) { return source(rank, token); }, meanwhile);
    }
}

/// The intermediate rows of the tokens that go to active experts.
template <class Tile, class Tables>
__device__ __forceinline__ void load_intermediate(const Cta<Tables>& cta, const RowLoad& load) {
    constexpr bool quantized = Tile::kForm == tokamak::cuda::TokenForm::quantized;
    using Element = std::conditional_t<quantized, float, __nv_bfloat16>;
    const DecodeArgs& args = cta.args;
    const auto copy_of = [&](int rank) {
        return RowCopy{.cols = static_cast<int>(args.intermediate_stride),
                       .padded_cols = args.down.padded_cols,
                       .vectors_of_row = args.down.row_vectors,
                       .rows = cta.template rows_of<true>(load.part(rank)),
                       .groups = cta.template groups_of<true>(load.part(rank)),
                       .thread = load.thread,
                       .threads = load.threads};
    };
    const auto* const base = static_cast<const Element*>(args.intermediate);
    const auto source = [&](int rank, int token) {
        return RowSource<Element>{base + cta.tables.slot(rank, token) * args.intermediate_stride};
    };
    load_ranks<Tile, Element>(load, cta.tables, copy_of, source, [] {});
}

/// What the last 128 bytes of a strip begin with.
__device__ __forceinline__ float2 global_scales(const DecodeMatrix& matrix, int expert, int strip) {
    const std::int64_t end = expert * matrix.expert_bytes + (strip + 1) * matrix.strip_bytes;
    return __ldg(reinterpret_cast<const float2*>(matrix.packed + end - 128));
}

/// The tokens of an expert, as the lanes of a team read them.
struct ExpertColumns {
    TokenList tokens;
    std::uint32_t address = 0;
    const float* groups = nullptr;
    bool folded = false;  ///< few enough for both halves of a tile to share the matrix instruction's columns
    tokamak::cuda::FoldedTokens fold;
};

/// `rows`: address of the expert's token rows. Where a lane reads zeros it does so in banks that no token's row is in.
template <class Tile>
__device__ __forceinline__ void fold_columns(std::uint32_t rows, int pitch, std::uint32_t zeros, int lane,
                                             ExpertColumns& columns) {
    const TokenList& tokens = columns.tokens;
    columns.folded = tokens.count <= tokamak::cuda::kFoldedTokens;
    unsigned used = 0;
#pragma unroll
    for (int i = 0; i < tokamak::cuda::kFoldedTokens; ++i) used |= 1U << tokens.at(i);
    const int place = lane % tokamak::cuda::kFoldedTokens;
    const std::uint32_t chunk = rows + lane / 8 * 16;
    const std::uint32_t none = chunk + (__ffs(static_cast<int>(~used)) - 1) * pitch;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        const bool own = lane % 8 / tokamak::cuda::kFoldedTokens == half && place < tokens.count;
        columns.fold.address[half] =
            own ? chunk + tokens.at(place) * pitch + half * 64 : zeros + ((none + half * 64) & 0x70U);
        columns.fold.step[half] = own ? Tile::kCols * tokamak::cuda::token_value_bytes(Tile::kForm) : 0;
        const int of_sums = lane % 2 * 2 + half;
        columns.fold.group_sums[half] = columns.groups + lane % 4 / 2 * kPassTokens + tokens.at(of_sums);
    }
}

/// A warp's pieces of a strip, from `first` on, times the tokens. Says what its sums belong to.
template <class Tile, class Cursor>
__device__ __forceinline__ SumPlace multiply_strip(const Team& team, const ExpertColumns& columns, int first,
                                                   int pieces, WarpRing<Tile>& ring, Cursor& cursor,
                                                   float (&sums)[Tile::kSlabs][4]) {
    constexpr int tile_bytes = Tile::kCols * tokamak::cuda::token_value_bytes(Tile::kForm);
    const int lane = team.lane;
    const auto each = [&](const auto& multiply) {
#pragma unroll 1
        for (int piece = first; piece < pieces; piece += team.warps) {
            multiply(ring.wait(), piece / Tile::kPieces);
            ring.release(cursor);
        }
    };
    if constexpr (tokamak::cuda::kFolds<Tile>) {
        if (columns.folded) {
            each([&](const ArrivedPiece& piece, int tile) {
                tokamak::cuda::multiply_folded<Tile>(piece.weights, columns.fold, tile, lane, sums);
            });
            tokamak::cuda::add_halves(lane, sums);
            return {lane % 2 * 2, lane % 4 / 2 * 16 + lane / 4, 32, Tile::kSlabs / 2};
        }
    }
    constexpr int parts = tokamak::cuda::kParts<Tile>;
    float part_sums[parts][Tile::kSlabs][4] = {};
    each([&](const ArrivedPiece& piece, int tile) {
        const std::uint32_t x = columns.address + tile * tile_bytes;
        const float* const groups = columns.groups + tile * Tile::kGroups * kPassTokens;
        if constexpr (Tile::kPieces == 1)
            tokamak::cuda::multiply_parts<Tile>(piece.weights, x, groups, lane, part_sums);
        else
            tokamak::cuda::multiply_piece<Tile>(piece.weights, piece.scales, x, groups, lane, part_sums[0]);
    });
#pragma unroll
    for (int slab = 0; slab < Tile::kSlabs; ++slab)
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            sums[slab][i] = part_sums[0][slab][i];
            if constexpr (parts == 2) sums[slab][i] += part_sums[1][slab][i];
        }
    return {lane % 4 * 2, lane / 4, 16, Tile::kSlabs};
}

/// Multiplies the team's strips of one phase. A warp takes every `warps`-th piece of the team's run, so that its ring
/// crosses strips; which of a strip's columns it gets then depends on the strip, but its sums are filed by columns.
/// (An even number of warps where a tile has two pieces: a warp always has the same rows.) `Rows` knows how the gate/up
/// phase comes by its token rows, and how many there are room for; a team without strips helps to load.
template <class Tile, bool Down, class Rows, class Cursor>
__device__ __forceinline__ void run_phase(const Cta<typename Rows::Tables>& cta, const Team& team, const Share& share,
                                          const Rows& x, WarpRing<Tile>& ring, Cursor& cursor) {
    const DecodeArgs& args = cta.args;
    const DecodeMatrix& matrix = Down ? args.down : args.gate_up;
    const int pitch = tokamak::cuda::token_pitch<Tile>(matrix.padded_cols);
    const int columns = x.columns();
    const int piece_sums = tokamak::cuda::kTileRows / Tile::kPieces * columns;
    const int pieces = matrix.tiles * Tile::kPieces;
    const int turns = pieces - quotient(pieces, team.teams.warps) * team.warps;
    const bool alone = Down && team.warps == Tile::kPieces;  // a warp has its rows' whole sums
    int rank = share.rank;
    int strip = share.strip;
    int seen = -1;  // rank that what follows belongs to
    ExpertColumns of_expert;
    int turn = 0;    // warp that has the strip's first piece
    int buffer = 0;  // two, so that a strip costs one barrier
    constexpr bool loads = Down || Rows::kGathers;
    for (int left = share.strips; left > 0 || (loads && seen < 0); --left) {
        if (rank != seen) {
            int part = team.index;
            if constexpr (loads) {
                const RowLoad load(team, share, rank, left);
                if (seen < 0 || !load.whole) {
                    if constexpr (Down)
                        load_intermediate<Tile>(cta, load);
                    else
                        x.template load_experts<Tile>(load);
                    load.barrier(team);
                }
                part = load.part(rank);
            }
            seen = rank;
            if (left == 0) break;
            of_expert.tokens = cta.tables.tokens_of(rank);
            if constexpr (!loads) x.template load_weighted<Tile>(team, rank, of_expert.tokens);
            std::uint8_t* const rows = cta.template rows_of<Down>(part);
            of_expert.address = x.address(rows, pitch, team.lane);
            of_expert.groups = cta.template groups_of<Down>(part);
            if constexpr (tokamak::cuda::kFolds<Tile>)
                fold_columns<Tile>(ptx::shared_address(rows), pitch, ptx::shared_address(cta.zeros), team.lane,
                                   of_expert);
        }
        StripBias<Down> bias;
        const int expert = cta.tables.experts()[rank];
        bias.load(args, team, expert, strip);
        float2 scales{1.0F, 1.0F};
        if constexpr (Tile::kGlobalScales) scales = global_scales(matrix, expert, strip);
        float sums[Tile::kSlabs][4] = {};
        const int first = team.warp >= turn ? team.warp - turn : team.warp - turn + team.warps;
        SumPlace place = multiply_strip<Tile>(team, of_expert, first, pieces, ring, cursor, sums);
        float* const partials = cta.partials + (team.index * 2 + buffer) * team.warps * piece_sums;
        float* const strip_bias =
            (Down ? cta.down_bias : cta.gate_up_bias) + (team.index * 2 + buffer) * tokamak::cuda::kTileRows;
        if (!alone) store_sums(partials + first * piece_sums, place, columns, sums);
        bias.store(team, strip_bias);
        team.barrier();
        const StripSums strip_sums{partials, strip_bias,       scales, of_expert.tokens,
                                   columns,  of_expert.folded, rank,   strip};
        if (alone) {
            place.row += first % Tile::kPieces * (tokamak::cuda::kTileRows / Tile::kPieces);
            finish_down_alone<Tile>(args, cta.tables, strip_sums, place, sums);
        } else if constexpr (Down) {
            finish_down<Tile>(args, cta.tables, team, strip_sums);
        } else {
            finish_gate_up<Tile>(args, cta.tables, team, strip_sums);
        }
        buffer ^= 1;
        turn += turns;
        if (turn >= team.warps) turn -= team.warps;
        if (++strip == matrix.strips) {
            strip = 0;
            ++rank;
        }
    }
}

/// Visible after the next barrier of the CTA.
template <class Tile>
__device__ __forceinline__ void clear_zeros(std::uint8_t* zeros) {
    if constexpr (tokamak::cuda::kFolds<Tile>)
        if (threadIdx.x < 32) reinterpret_cast<std::uint32_t*>(zeros)[threadIdx.x] = 0;
}

__device__ __forceinline__ std::int64_t live_tokens(const DecodeArgs& args) {
    if (args.num_tokens == nullptr) return args.tokens;
    const std::int64_t given = *args.num_tokens;
    return given < 0 ? 0 : given < args.tokens ? given : args.tokens;
}

template <class Tile>
DecodeInstance instance_of(const void* kernel, int warps) {
    using tokamak::cuda::TokenForm;
    return {.kernel = kernel,
            .warps = warps,
            .piece_bytes = Tile::kBytes,
            .pieces = Tile::kPieces,
            .tile_cols = Tile::kCols,
            .value_bytes = tokamak::cuda::token_value_bytes(Tile::kForm),
            .group = Tile::kGroup,
            .token_groups = Tile::Decode::kHasZeroPoint || Tile::kForm == TokenForm::quantized,
            .strip_scales = Tile::kStripScales};
}

}  // namespace tokamak::moe::cuda
