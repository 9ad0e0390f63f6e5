// SPDX-License-Identifier: Apache-2.0
// The decode kernel for more tokens than 8 where few of them meet in an expert: rows are gathered for each expert
// (docs/kernels/moe_decode.md).
#pragma once

#include <cooperative_groups.h>

#include <cstdint>

#include "moe/cuda/decode_phase.cuh"
#include "moe/cuda/gather_tables.cuh"
#include "moe/cuda/store_four.cuh"

namespace tokamak::moe::cuda {

/// The token rows of groups. `prime` fills the rings: the first rows are asked for before the first weights, behind
/// which they would wait for microseconds.
template <class Prime>
struct GatheredRows {
    using Tables = GroupTables;
    static constexpr bool kGathers = true;

    const Cta<Tables>& cta;
    std::int64_t first;  ///< token of the pass
    const Prime& prime;

    [[nodiscard]] __device__ int columns() const { return cta.args.group_rows; }
    /// Columns without a row read some other one: nobody looks at their sums.
    [[nodiscard]] __device__ std::uint32_t address(const std::uint8_t* rows, int pitch, int lane) const {
        return ptx::shared_address(rows) + min(lane % 8, columns() - 1) * pitch + lane / 8 * 16;
    }

    template <class Tile>
    __device__ __forceinline__ void load_experts(const RowLoad& load) const {
        const DecodeArgs& args = cta.args;
        const auto copy_of = [&](int rank) {
            return RowCopy{.cols = args.gate_up.cols,
                           .padded_cols = args.gate_up.padded_cols,
                           .vectors_of_row = args.gate_up.row_vectors,
                           .vectors = args.x_vectors && args.gate_up.cols % 8 == 0,
                           .weighted = args.weight_input,
                           .rows = cta.rows_of<false>(load.part(rank)),
                           .groups = cta.groups_of<false>(load.part(rank)),
                           .thread = load.thread,
                           .threads = load.threads};
        };
        const auto source = [&](int rank, int place) {
            const int route = cta.tables.slot(rank, place);
            const std::int64_t token = first + quotient(route, args.by_top_k);
            const auto* const row = static_cast<const __nv_bfloat16*>(args.x) + token * args.x_stride;
            return RowSource<__nv_bfloat16>{row, args.weight_input ? route_weight(args, first, route) : 1.0F};
        };
        const bool plain = args.x_vectors && args.gate_up.cols % 8 == 0 && !args.weight_input;
        RowLoad quick = load;
        if (!plain) quick.last = quick.first - 1;
        load_ranks<Tile, __nv_bfloat16>(quick, cta.tables, copy_of, source, prime);
        if (plain) return;
#pragma unroll 1
        for (int rank = load.first; rank <= load.last; ++rank)
            load_rare_rows<Tile>(copy_of(rank), cta.tables.tokens_of(rank),
                                 [&](int place) { return source(rank, place); });
    }

    [[nodiscard]] __device__ static float route_weight(const DecodeArgs& args, std::int64_t first, int route) {
        if (args.weights.data == nullptr) return 1.0F;
        const int token = quotient(route, args.by_top_k);
        return load_element(args.weights, first + token, route - token * args.top_k);
    }
};

/// `Width` neighbouring outputs of a token: the weighted results in the order of the slots.
template <int Width>
__device__ __forceinline__ void sum_routes(const DecodeArgs& args, const GroupTables& tables, std::int64_t first,
                                           int token, int col, float (&sums)[Width]) {
    constexpr int batch = 8;  // loads in flight
#pragma unroll 1
    for (int begin = 0; begin < args.top_k; begin += batch) {
        Elements<DType::f32, Width> loaded[batch];
        PendingElement weights[batch];
        bool there[batch];
#pragma unroll
        for (int i = 0; i < batch; ++i) {
            const int slot = begin + i;
            const int route = token * args.top_k + slot;
            there[i] = slot < args.top_k && tables.is_live(route);
            if (!there[i]) continue;
            const float* const from = args.partials + static_cast<std::int64_t>(route) * args.gate_up.cols + col;
            if constexpr (Width == 4) {
                const float4 four = __ldcg(reinterpret_cast<const float4*>(from));
                loaded[i] = {four.x, four.y, four.z, four.w};
            } else {
                loaded[i] = {__ldcg(from)};
            }
            if (args.weights.data != nullptr) weights[i].load(args.weights, first + token, slot);
        }
        const bool weighted = args.weights.data != nullptr && !args.weight_input;
#pragma unroll
        for (int i = 0; i < batch; ++i) {
            if (!there[i]) continue;
            const float weight = weighted ? weights[i].value() : 1.0F;
#pragma unroll
            for (int j = 0; j < Width; ++j) sums[j] = fmaf(weight, loaded[i].value(j), sums[j]);
        }
    }
}

/// As the decode kernel's combine, but a lane has `Width` columns: many tokens have many partial rows, and what is in
/// flight decides.
template <int Width>
__device__ __forceinline__ void combine_routes(const DecodeArgs& args, const GroupTables& tables, std::int64_t first,
                                               int count) {
    constexpr int run_cols = 32 * Width;
    const int hidden = args.gate_up.cols;
    const int runs = (hidden + run_cols - 1) / run_cols;
    const int step = static_cast<int>(gridDim.x * blockDim.x) / 32;
    const bool plain = args.out_dtype == DType::bf16 && !args.accumulate && args.shared_output.data == nullptr;
#pragma unroll 1
    for (int run = static_cast<int>(threadIdx.x / 32 * gridDim.x + blockIdx.x); run < runs * count; run += step) {
        const int token = run / runs;
        const int col = (run - token * runs) * run_cols + static_cast<int>(threadIdx.x) % 32 * Width;
        if (col >= hidden) continue;
        float sums[Width] = {};
        sum_routes(args, tables, first, token, col, sums);
        const std::int64_t row = first + token;
        const std::int64_t to = row * args.out_stride + col;
        if constexpr (Width == 4)
            if (plain && store_bf16(args.out, to, sums)) continue;
#pragma unroll
        for (int j = 0; j < Width; ++j) {
            if (args.shared_output.data != nullptr) sums[j] += load_element(args.shared_output, row, col + j);
            if (args.accumulate) sums[j] += load_element(args.out, args.out_dtype, to + j);
            store_element(args.out, args.out_dtype, to + j, sums[j]);
        }
    }
}

template <class Tile, int Warps>
__global__ void __launch_bounds__(Warps * 32, 1) moe_gather(const __grid_constant__ DecodeArgs args) {
    extern __shared__ __align__(128) std::uint8_t shared[];
    const Cta<GroupTables> cta(args, shared);
    if (!args.routed_before) copy_ids<Warps * 32>(args, cta.tables, 0);
    const std::int64_t tokens = live_tokens(args);
    const auto grid = cooperative_groups::this_grid();
    const Team gate_up(args.gate_up_teams);
    const Team down(args.down_teams);
    const int slot = static_cast<int>(threadIdx.x) / 32 * args.slots;
    WarpRing<Tile> ring(shared + slot * Tile::kBytes, shared + args.shared.scales + slot * 8,
                        reinterpret_cast<std::uint64_t*>(shared + args.shared.barriers) + slot, args.slots,
                        gate_up.lane);
    ring.begin();
    clear_zeros<Tile>(cta.zeros);
    if (args.routed_before) {
        asm volatile("griddepcontrol.wait;" ::: "memory");
        copy_ids<Warps * 32>(args, cta.tables, 0);
    }
#pragma unroll 1
    for (std::int64_t first = 0; first < tokens; first += args.gather_tokens) {
        const int count = static_cast<int>(min(static_cast<std::int64_t>(args.gather_tokens), tokens - first));
        if (first > 0) {
            __syncthreads();  // the tables of the last pass have been read
            copy_ids<Warps * 32>(args, cta.tables, first);
        }
        build_groups<Warps * 32>(args, cta.tables, count);
        const int active = cta.tables.active_count();
        const Share gate_up_share(args, args.gate_up, gate_up, active);
        const Share down_share(args, args.down, down, active);
        TileCursor<Tile, GroupExperts> cursor(args, gate_up, gate_up_share, down, down_share, cta.tables.experts());
        bool primed = false;
        const auto prime = [&] {
            if (!primed) ring.prime(cursor);
            primed = true;
        };
        const GatheredRows<decltype(prime)> x{cta, first, prime};
        run_phase<Tile, false>(cta, gate_up, gate_up_share, x, ring, cursor);
        grid.sync();  // the down weights arrive meanwhile
        run_phase<Tile, true>(cta, down, down_share, x, ring, cursor);
        grid.sync();
        if (args.gate_up.cols % 4 == 0)
            combine_routes<4>(args, cta.tables, first, count);
        else
            combine_routes<1>(args, cta.tables, first, count);
    }
}

template <class Tile, int Warps>
DecodeInstance gather_instance() {
    return instance_of<Tile>(reinterpret_cast<const void*>(&moe_gather<Tile, Warps>), Warps);
}

}  // namespace tokamak::moe::cuda
