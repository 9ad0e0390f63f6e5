// SPDX-License-Identifier: Apache-2.0
// The whole MoE layer for few tokens in one cooperative launch of one CTA per SM (docs/kernels/moe_decode.md).
#pragma once

#include <cooperative_groups.h>

#include <cstdint>

#include "moe/cuda/decode_combine.cuh"
#include "moe/cuda/decode_logits.h"
#include "moe/cuda/decode_phase.cuh"

namespace tokamak::moe::cuda {

/// The token rows of a pass for the whole CTA, or, times their routing weights, those of one expert for a team.
struct TokenRows {
    using Tables = RoutingTables;
    static constexpr bool kGathers = false;

    const Cta<Tables>& cta;
    std::int64_t first;  ///< token of the pass

    [[nodiscard]] __device__ static constexpr int columns() { return kPassTokens; }
    [[nodiscard]] __device__ static std::uint32_t address(const std::uint8_t* rows, int pitch, int lane) {
        return tokamak::cuda::token_address(rows, pitch, lane);
    }

    /// Those that this CTA's experts see, and no others: eight rows take far longer than the first weights. They are
    /// asked for before the first weights (`prime`), which would keep them waiting for microseconds.
    template <class Tile, class Prime>
    __device__ __forceinline__ void load(const Share& share, const Prime& prime) const {
        const TokenList list = cta.tables.tokens(share.first_rank, share.last_rank);
        RowCopy copy = copy_to(cta.rows, cta.groups);
        copy.thread = static_cast<int>(threadIdx.x);
        copy.threads = static_cast<int>(blockDim.x);
        const auto source = [&](int token) { return RowSource<__nv_bfloat16>{row(token)}; };
        if (copy.vectors) return load_rows<Tile, __nv_bfloat16>(copy, list, source, prime);
        prime();
        load_rare_rows<Tile>(copy, list, source);
    }

    template <class Tile>
    /// The rows of one expert where they are weighted.
    __device__ __forceinline__ void load_weighted(const Team& team, int rank, const TokenList& list) const {
        if (!cta.args.weight_input) return;
        RowCopy copy = copy_to(cta.rows_of<false>(team.index), cta.groups_of<false>(team.index));
        copy.weighted = true;
        copy.thread = team.thread();
        copy.threads = team.threads();
        load_rare_rows<Tile>(copy, list, [&](int token) {
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
                .vectors_of_row = cta.args.gate_up.row_vectors,
                .vectors = cta.args.x_vectors && cta.args.gate_up.cols % 8 == 0,
                .rows = rows,
                .groups = groups};
    }
};

/// `Routes` brings the tokens' experts: a kernel of its own from logits, because code that does not run slows the rest
/// down (registers, instruction cache).
template <class Tile, int Warps, class Routes>
__global__ void __launch_bounds__(Warps * 32, 1) moe_decode(const __grid_constant__ DecodeArgs args) {
    extern __shared__ __align__(128) std::uint8_t shared[];
    const auto grid = cooperative_groups::this_grid();
    const int slot = static_cast<int>(threadIdx.x) / 32 * args.slots;
    WarpRing<Tile> ring(shared + slot * Tile::kBytes, shared + args.shared.scales + slot * 8,
                        reinterpret_cast<std::uint64_t*>(shared + args.shared.barriers) + slot, args.slots,
                        static_cast<int>(threadIdx.x) % 32);
    std::int64_t first = 0;
    int round = 0;
#pragma unroll 1
    for (;;) {
        const bool fresh = Routes::kOnePass || (first == 0 && round == 0);
        if (!fresh) __syncthreads();  // the tables of the last round have been read
        Routes routes;
        const int most = static_cast<int>(min(static_cast<std::int64_t>(kPassTokens), args.tokens - first));
        auto* const scores = reinterpret_cast<float*>(shared + args.shared.rows);
        routes.ask(args, first, most, scores);
        if (fresh) {  // while they are on their way
            ring.begin_elected();
            clear_zeros<Tile>(shared + args.shared.scales);
        }
        clear_tables(args, shared, most);
        routes.decide(args, scores);
        const std::int64_t tokens = live_tokens(args);
        if (first >= tokens) return;
        const int count = static_cast<int>(min(static_cast<std::int64_t>(kPassTokens), tokens - first));
        const Team gate_up(args.gate_up_teams);
        const Team down(args.down_teams);
        const Cta<RoutingTables> cta(args, shared);
        __syncthreads();
        build_tables(args, cta.tables, routes, count, round);
        __syncthreads();
        const int active = cta.tables.active_count();
        const Share gate_up_share(args, args.gate_up, gate_up, active);
        Share down_share;
        TileCursor<Tile, const int*> cursor(args, gate_up, gate_up_share, down, down_share, cta.tables.experts());
        const TokenRows x{cta, first};
        const auto prime = [&] {  // the rows of x are on their way
            down_share = Share(args, args.down, down, active);
            ring.prime(cursor);
        };
        if (args.weight_input)
            prime();
        else
            x.load<Tile>(gate_up_share, prime);
        __syncthreads();
        run_phase<Tile, false>(cta, gate_up, gate_up_share, x, ring, cursor);
        grid.sync();  // the down weights arrive meanwhile
        run_phase<Tile, true>(cta, down, down_share, x, ring, cursor);
        grid.sync();
        if constexpr (!Routes::kOnePass)
            if (++round < *cta.tables.rounds) continue;
        combine(args, cta.tables, first, count);
        if constexpr (Routes::kOnePass) return;
        round = 0;
        first += kPassTokens;
        if (first >= tokens) return;
    }
}

template <class Tile, int Warps>
DecodeInstance decode_instance() {
    return instance_of<Tile>(reinterpret_cast<const void*>(&moe_decode<Tile, Warps, PendingIds>), Warps);
}

/// From logits.
template <class Tile, int Warps>
DecodeInstance decode_logits_instance() {
    return instance_of<Tile>(reinterpret_cast<const void*>(&moe_decode<Tile, Warps, PendingLogits>), Warps);
}

}  // namespace tokamak::moe::cuda
