// SPDX-License-Identifier: Apache-2.0
// The whole MoE layer for one token in one cooperative launch of one CTA per SM (docs/kernels/moe_single.md).
#pragma once

#include <cooperative_groups.h>

#include <cstdint>
#include <utility>

#include "moe/cuda/decode_rows.cuh"
#include "moe/cuda/single/combine.cuh"

namespace tokamak::moe::cuda {

/// Place of a thread among those that multiply: all but the first warp.
struct Worker {
    int thread = static_cast<int>(threadIdx.x) - 32;
    int warp = static_cast<int>(threadIdx.x) / 32 - 1;  ///< negative for the first
    int lane = static_cast<int>(threadIdx.x) % 32;
    int threads = static_cast<int>(blockDim.x) - 32;
    int warps = threads / 32;

    /// Among all workers.
    __device__ void barrier() const { ptx::named_barrier(1, threads); }
};

/// A slot of the token on its way from memory: a lane for each.
class PendingSlot {
  public:
    __device__ __forceinline__ void load(const SingleArgs& args, int lane) {
        live_ = lane < args.top_k;
        if (!live_) return;
        id_ = load_id(args.ids.data, args.ids.dtype == DType::i64, args.token * args.ids.stride + lane);
        if (args.weights.data != nullptr) weight_.load(args.weights, args.token, lane);
    }
    /// Writes the warp's table of experts; returns the number of live routes.
    __device__ __forceinline__ int list(const SingleArgs& args, int lane, int* experts) {
        const int expert = live_ ? local_expert(args, id_) : -1;
        const unsigned live = __ballot_sync(0xFFFFFFFFU, expert >= 0);
        place_ = expert >= 0 ? __popc(live & ((1U << lane) - 1U)) : -1;
        if (place_ >= 0) experts[place_] = expert;
        __syncwarp();
        return __popc(live);
    }
    __device__ __forceinline__ void store_weight(const SingleArgs& args, float* weights) const {
        if (place_ >= 0) weights[place_] = args.weights.data != nullptr ? weight_.value() : 1.0F;
        __syncwarp();
    }

  private:
    bool live_ = false;
    int place_ = -1;
    std::int64_t id_ = 0;
    PendingElement weight_;
};

/// The token's row in shared memory, asked for before the first weights; `meanwhile()` asks for those.
template <class Tile, class Meanwhile>
__device__ __forceinline__ void load_token(const SingleArgs& args, const Worker& worker, std::uint8_t* shared,
                                           const Meanwhile& meanwhile) {
    const RowCopy copy{.cols = args.gate_up.cols,
                       .padded_cols = args.gate_up.padded_cols,
                       .vectors_of_row = args.gate_up.row_vectors,
                       .vectors = args.x_vectors && args.gate_up.cols % 8 == 0,
                       .rows = shared + args.parts.x,
                       .groups = reinterpret_cast<float*>(shared + args.parts.x_groups),
                       .thread = worker.thread,
                       .threads = worker.threads};
    TokenList list;
    list.add(0);
    const auto source = [&](int) {
        return RowSource<__nv_bfloat16>{static_cast<const __nv_bfloat16*>(args.x) + args.token * args.x_stride};
    };
    if (copy.vectors) return load_rows<Tile, __nv_bfloat16>(copy, list, source, meanwhile);
    meanwhile();
    load_rare_rows<Tile>(copy, list, source);
}

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
__device__ __forceinline__ void multiply_run(const Phase<false>& gate_up, const Phase<true>& down,
                                             std::uint8_t* shared, const Worker& worker, TileRing<Tile>& ring) {
    constexpr int tile_bytes = Tile::kCols * tokamak::cuda::token_value_bytes(Tile::kForm);
    const SingleArgs& args = gate_up.args;
    const auto& phase = [&]() -> const auto& {
        if constexpr (Down)
            return down;
        else
            return gate_up;
    }();
    const SingleShared& parts = args.parts;
    const int first = phase.warp_first(worker.warp);
    int left = phase.warp_count(worker.warp);
    int strip = phase.strip_of(first);
    int tile = first - strip * phase.tiles();
    const int first_route = Down ? phase.route_of(phase.strip_of(phase.cta_first())) : 0;
    auto* to = reinterpret_cast<float*>(shared + parts.sums) + worker.warp * parts.warp_segments * kSegmentSums;
    // Every row of the operand is the token.
    const std::uint32_t x = tokamak::cuda::token_address(shared + (Down ? parts.rows : parts.x), 0, worker.lane);
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
            multiply_arrived<Tile>(ring.wait(), row, row_groups, worker.lane, sums);
            ring.release(gate_up, down);
            row += tile_bytes;
            row_groups += Tile::kGroups * tokamak::cuda::kTileTokens;
        }
        store_segment(to, worker.lane, sums);
        to += kSegmentSums;
        tile = 0;
        ++strip;
    }
}

template <class Tile, int Warps>
__global__ void __launch_bounds__(Warps * 32 + 32, 1) moe_single(const __grid_constant__ SingleArgs args) {
    extern __shared__ __align__(1024) std::uint8_t shared[];
    const Worker worker;
    PendingSlot slot;
    slot.load(args, worker.lane);
    if (args.token >= live_tokens(args.tokens, args.num_tokens)) return;
    const auto grid = cooperative_groups::this_grid();
    const bool serves = worker.warp < 0;
    if (serves) clear_published(args, worker.lane);
    auto cleared = grid.barrier_arrive();
    if (serves) {
        grid.barrier_wait(std::move(cleared));
        return;
    }
    auto* const experts = reinterpret_cast<int*>(shared + args.parts.experts) + worker.warp * 32;
    auto* const weights = reinterpret_cast<float*>(shared + args.parts.weights) + worker.warp * 32;
    TileRing<Tile> ring(args, shared, worker.warp, worker.lane);
    int routes = 0;
    load_token<Tile>(args, worker, shared, [&] {
        routes = slot.list(args, worker.lane, experts);
        ring.prime(Phase<false>(args, routes, Warps), Phase<true>(args, routes, Warps), worker.warp, experts);
    });
    const Phase<false> gate_up(args, routes, Warps);
    const Phase<true> down(args, routes, Warps);
    slot.store_weight(args, weights);
    Publication<Tile, false> activations(gate_up, shared, worker.thread, experts);
    worker.barrier();
    multiply_run<Tile, false>(gate_up, down, shared, worker, ring);
    // Behind the clearing of all CTAs, and the sums of all warps are there.
    grid.barrier_wait(std::move(cleared));
    activations.publish_all(worker.threads, weights);
    Publication<Tile, true> results(down, shared, worker.thread, experts);
    load_intermediate<Tile>(gate_up, down, shared, worker.warp, Warps, worker.lane);
    worker.barrier();
    multiply_run<Tile, true>(gate_up, down, shared, worker, ring);
    worker.barrier();
    results.publish_all(worker.threads, weights);
    combine_routes(down, routes, worker.warp, Warps, worker.lane);
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
