// SPDX-License-Identifier: Apache-2.0
// The whole MoE layer for one token in one cooperative launch of one CTA per SM (docs/kernels/moe_single.md).
#pragma once

#include <cooperative_groups.h>

#include <cstdint>
#include <utility>

#include "moe/cuda/single/combine.cuh"
#include "moe/cuda/single/token.cuh"

namespace tokamak::moe::cuda {

template <class Tile>
__device__ __forceinline__ void multiply_arrived(const ArrivedTile& tile, std::uint32_t x, const float* groups,
                                                 int lane, float (&sums)[4][4]) {
    if constexpr (Tile::kPieces == 1) {
        tokamak::cuda::multiply_tile<Tile>(tile.weights, x, groups, lane, sums);
    } else {
        auto& halves = reinterpret_cast<float(&)[2][2][4]>(sums);
        tokamak::cuda::multiply_piece<Tile>(tile.weights, tile.scales, x, groups, lane, halves[0]);
        tokamak::cuda::multiply_piece<Tile>(tile.weights + Tile::kBytes, tile.scales, x, groups, lane, halves[1]);
    }
}

/// The warp's tiles of one phase; the sums of each segment go to its own place in shared memory.
template <class Tile, bool Down>
__device__ __forceinline__ void multiply_run(const Phase<false>& gate_up, const Phase<true>& down, std::uint8_t* shared,
                                             int warp, int lane, TileRing<Tile>& ring) {
    constexpr int tile_bytes = Tile::kCols * tokamak::cuda::token_value_bytes(Tile::kForm);
    const SingleArgs& args = gate_up.args;
    const auto& phase = [&]() -> const auto& {
        if constexpr (Down)
            return down;
        else
            return gate_up;
    }
    ();
    const SingleShared& parts = args.parts;
    const int first = phase.warp_first(warp);
    int left = phase.warp_count(warp);
    int strip = phase.strip_of(first);
    int tile = first - strip * phase.tiles();
    const int first_route = Down ? phase.route_of(phase.strip_of(phase.cta_first())) : 0;
    auto* to = reinterpret_cast<float*>(shared + parts.sums) + warp * parts.warp_segments * kSegmentSums;
    // Every row of the operand is the token.
    const std::uint32_t x = tokamak::cuda::token_address(shared + (Down ? parts.rows : parts.x), 0, lane);
    const auto* const groups = reinterpret_cast<const float*>(shared + (Down ? parts.row_groups : parts.x_groups));
    while (left > 0) {
        const int route = Down ? phase.route_of(strip) - first_route : 0;
        std::uint32_t row = x + route * parts.row_pitch + tile * tile_bytes;
        const float* row_groups =
            groups + route * parts.group_pitch + tile * Tile::kGroups * tokamak::cuda::kTileTokens;
        float sums[4][4] = {};
        int count = min(left, phase.tiles() - tile);
        left -= count;
#pragma unroll 1
        for (; count > 0; --count) {
            multiply_arrived<Tile>(ring.wait(), row, row_groups, lane, sums);
            ring.release(gate_up, down);
            row += tile_bytes;
            row_groups += Tile::kGroups * tokamak::cuda::kTileTokens;
        }
        store_segment(to, lane, sums);
        to += kSegmentSums;
        tile = 0;
        ++strip;
    }
}

/// Numbers of the CTA's barriers; 0 is the grid's.
inline constexpr int kRowsBarrier = 1;
inline constexpr int kWorkersBarrier = 2;
inline constexpr int kRoutedBarrier = 3;

/// Place of a thread and what all warps know.
template <class Tile, int Warps>
struct SingleCta {
    static constexpr int kAllWarps = Warps + kServiceWarps;
    const SingleArgs& args;
    std::uint8_t* shared;
    int warp = static_cast<int>(threadIdx.x) / 32;  ///< the first ones serve
    int lane = static_cast<int>(threadIdx.x) % 32;
    int* experts;  ///< the warp's own tables
    float* weights;

    __device__ SingleCta(const SingleArgs& a, std::uint8_t* memory)
        : args(a),
          shared(memory),
          experts(reinterpret_cast<int*>(memory + a.parts.experts) + warp * kMostSingleRoutes),
          weights(reinterpret_cast<float*>(memory + a.parts.weights) + warp * kMostSingleRoutes) {}

    /// From the gate/up sums of all warps to the intermediate rows in shared memory.
    __device__ __forceinline__ void hand_over(GateUpEnd<Tile>& end, const Phase<true>& down) const {
        for (int segment = warp; end.has_segment(); end.select(segment += kAllWarps)) end.finish();
        load_intermediate<Tile>(down, shared, warp, kAllWarps, lane);
        ptx::named_barrier(kRowsBarrier, kAllWarps * 32);
    }
};

/// The first warps: clear, fetch the token, and at the end combine. From logits the last of them routes instead.
template <class Tile, int Warps>
__device__ __forceinline__ void serve(const SingleCta<Tile, Warps>& cta, PendingSlots& slots) {
    const SingleArgs& args = cta.args;
    const bool routes_here = from_logits(args);
    const int threads = (routes_here ? kServiceWarps - 1 : kServiceWarps) * 32;
    const int thread = static_cast<int>(threadIdx.x);
    if (thread < threads) {
        PendingRow<Tile> row(args, cta.shared, thread, threads);
        row.load();
        clear_published(args, thread, threads);
        row.store();
    } else {
        route_token(args, cta.shared);
        ptx::named_barrier(kRoutedBarrier, (Warps + 1) * 32);
    }
    const auto grid = cooperative_groups::this_grid();
    auto cleared = grid.barrier_arrive();  // for this CTA: the row is there
    if (routes_here) slots.take(RoutedSlots(args, cta.shared), cta.lane);
    const int routes = slots.list(args, cta.lane, cta.experts);
    const Phase<false> gate_up(args, routes, Warps);
    const Phase<true> down(args, routes, Warps);
    const Segments<Tile, false> segments(gate_up, cta.shared);
    GateUpEnd<Tile> end(segments, cta.experts, cta.lane);
    end.select(cta.warp);
    grid.barrier_wait(std::move(cleared));
    cta.hand_over(end, down);
    combine_routes(down, routes, cta.warp, kServiceWarps, cta.lane);
}

/// The other warps: multiply.
template <class Tile, int Warps>
__device__ __forceinline__ void work(const SingleCta<Tile, Warps>& cta, PendingSlots& slots) {
    const SingleArgs& args = cta.args;
    const int worker = cta.warp - kServiceWarps;
    TileRing<Tile> ring(args, cta.shared, worker, cta.lane);
    // Nearly always every slot is live: what follows from that is ready when the ids arrive.
    Phase<false> gate_up(args, args.top_k, Warps);
    Phase<true> down(args, args.top_k, Warps);
    ring.plan(gate_up, down, worker);
    if (from_logits(args)) {
        ptx::named_barrier(kRoutedBarrier, (Warps + 1) * 32);
        slots.take(RoutedSlots(args, cta.shared), cta.lane);
    }
    const int routes = slots.list(args, cta.lane, cta.experts);
    if (routes != args.top_k) {
        gate_up.cut(routes, Warps);
        down.cut(routes, Warps);
        ring.plan(gate_up, down, worker);
    }
    ring.prime(cta.experts);
    slots.store_weights(args, cta.weights);
    const Segments<Tile, false> segments(gate_up, cta.shared);
    GateUpEnd<Tile> end(segments, cta.experts, cta.lane);
    end.select(cta.warp);
    const auto grid = cooperative_groups::this_grid();
    auto cleared = grid.barrier_arrive();  // for this CTA: the row is there
    multiply_run<Tile, false>(gate_up, down, cta.shared, worker, cta.lane, ring);
    // Behind the clearing of all CTAs, and the sums of all warps are there.
    grid.barrier_wait(std::move(cleared));
    cta.hand_over(end, down);
    const Segments<Tile, true> results(down, cta.shared);
    DownEnd<Tile> last(results, cta.experts, cta.weights, cta.lane);
    last.select(worker);
    multiply_run<Tile, true>(gate_up, down, cta.shared, worker, cta.lane, ring);
    ptx::named_barrier(kWorkersBarrier, Warps * 32);
    for (int segment = worker; last.has_segment(); last.select(segment += Warps)) last.finish();
}

template <class Tile, int Warps>
__global__ void __launch_bounds__((Warps + kServiceWarps) * 32, 1) moe_single(const __grid_constant__ SingleArgs args) {
    extern __shared__ __align__(1024) std::uint8_t shared[];
    const SingleCta<Tile, Warps> cta(args, shared);
    PendingSlots slots;
    slots.load(args, cta.lane);
    if (args.token >= live_tokens(args.tokens, args.num_tokens)) return;
    if (cta.warp < kServiceWarps)
        serve(cta, slots);
    else
        work(cta, slots);
}

template <class Tile, int Warps>
DecodeInstance single_instance() {
    using tokamak::cuda::TokenForm;
    return {.kernel = reinterpret_cast<const void*>(&moe_single<Tile, Warps>),
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
