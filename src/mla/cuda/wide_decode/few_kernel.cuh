// SPDX-License-Identifier: Apache-2.0
// The wide decode kernel for few tokens: so many splits that their blocks take the whole chip, which clusters do not.
// All blocks run at once (a cooperative launch), and the splits exchange their sums by way of the caller's workspace.
// Two warpgroups score a block of rows each, make weights together and add values; one brings rows, tells sums and
// stores parts. See docs/kernels/sparse_mla_wide_few.md.
#pragma once

#include "mla/cuda/wide_decode/few_bring.cuh"
#include "mla/cuda/wide_decode/few_score.cuh"
#include "mla/cuda/wide_decode/published.cuh"

namespace tokamak::mla::cuda::wide_decode {

__device__ __forceinline__ void init_few(FewControl& control) {
#pragma unroll
    for (int stage = 0; stage < kRing; ++stage) {
        ptx::barrier_init(&control.full[stage], kFewBringers);
        ptx::barrier_init(&control.counted[stage], kFewBringers / 32);
        ptx::barrier_init(&control.settled[stage], kFewBringers / 32);
        ptx::barrier_init(&control.read[stage], kFewMath / 32);
    }
    ptx::fence_barrier_init();
}

/// By the first warps, while those who need them next wait for indices.
__device__ __forceinline__ void keep_params(const Params& params, Params& kept, int warp, int lane) {
    constexpr int kWords = sizeof(Params) / 4;
    const int word = warp * 32 + lane;
    if (word < kWords)
        reinterpret_cast<std::uint32_t*>(&kept)[word] = reinterpret_cast<const std::uint32_t*>(&params)[word];
}

/// What the bringing warps do when all weights are made: two see to the output, two have a head each thread.
__device__ __forceinline__ void exchange_few(const Params& params, FewControl& control, std::uint32_t base,
                                             const WidePlace& place, const Board& board, int warp, int lane) {
    if (warp < 2) {
        ptx::named_barrier(kFewStagedBarrier, kFewMath + 64);
        board.store_staged(place.rank, OwnedRows(params, place.rank), base, warp, lane);
        ptx::named_barrier(kFewStoredBarrier, kFewMath + 64);
        if (warp != 0) return;
        board.raise(place.rank, kOutFlag, params.splits, lane);
        board.await(place.rank, kOutFlag, params.splits, lane);
        ptx::named_barrier_arrive(kFewReadyBarrier, kFewMath + 96);
        return;
    }
    const int h = warp * 32 - 64 + lane;
    const int head = place.first_head + h;
    const bool real = head < params.heads;
    board.store_sums(place.rank, h, control.reference[h], control.sum[0][h] + control.sum[1][h]);
    ptx::named_barrier(kFewHeadsBarrier, 64);
    if (warp == 2) {
        board.raise(place.rank, kSumsFlag, params.splits, lane);
        board.await(place.rank, kSumsFlag, params.splits, lane);
    }
    const float sink = real ? sink_of(params, head) : -kInfinity;
    ptx::named_barrier(kFewHeadsBarrier, 64);
    const HeadSums sums = merge_published(board, control, params.splits, h, sink);
    ptx::named_barrier_arrive(kFewReadyBarrier, kFewMath + 96);
    if (real && place.rank == 0) store_statistics(params, place.token, head, sums, sink);
}

/// Whether the device count takes the block's token away.
__device__ __forceinline__ bool leaves(const Params& params, const WidePlace& place) {
    return params.num_tokens != nullptr && place.token >= *params.num_tokens;
}

__device__ __forceinline__ Board board_of(const Params& params, const Published& published) {
    return {params, published, static_cast<int>(blockIdx.z * gridDim.y + blockIdx.y)};
}

__device__ __forceinline__ void bring_few(const Params& params, const Published& published, FewControl& control,
                                          std::uint32_t base, const WidePlace& place, int warp, int lane) {
    FewBringer bringer(params, control, base, place.token, place.rank, warp, lane);
    if (leaves(params, place)) return;
    ptx::named_barrier(kFewStartBarrier, kFewThreads);
    bringer.ask_first();
    bringer.run(bringer.blocks(params, place.rank));
    ptx::named_barrier(kFewSumsBarrier, kFewThreads);
    exchange_few(control.params, control, base, place, board_of(control.params, published), warp, lane_anew());
}

/// The queries of a warp's heads.
template <typename Do>
__device__ __forceinline__ void for_few_queries(std::uint32_t base, int warp, int lane, const Do& act) {
#pragma unroll 1
    for (int group = warp; group < FourQueries<kFewDim>::kGroups; group += kFewMath / 32)
        act(FourQueries<kFewDim>(base, group, lane));
}
__device__ __forceinline__ void copy_few_queries(const Params& params, std::uint32_t base, const WidePlace& place,
                                                 int warp, int lane) {
    for_few_queries(base, warp, lane, [&](const auto& four) { four.copy(params, place.token, place.first_head); });
    ptx::copy_commit();
}
/// Settles them, and what a head's scores must be multiplied by.
__device__ __forceinline__ void settle_few_queries(const Params& params, FewControl& control, std::uint32_t base,
                                                   int warp, int lane) {
    ptx::copy_wait<0>();
    __syncwarp();
    for_few_queries(base, warp, lane, [&](const auto& four) {
        const int power = four.convert();
        if (lane % 8 == 0) control.head_factor[four.head()] = params.scale_log2 * power_of(power);
    });
    ptx::fence_shared_async();
}

__device__ __forceinline__ Stage next_stage(Stage stage) {
    stage.advance(kRing);
    return stage;
}

/// What parts are divided by, as an exponent of 2: values are below 2^15, a share has fewer rows than 2^(32 - leading
/// zeros).
__device__ __forceinline__ int part_shift(const Params& params) {
    return kPatienceBits + 32 - __clz(params.first.share + 8);
}

__device__ __forceinline__ void calculate_few(const Params& params, const Published& published, FewControl& control,
                                              std::uint32_t base, const WidePlace& place, int warp, int lane) {
    keep_params(params, control.params, warp, lane);
    if (leaves(params, place)) return;
    if (warp == 0 && lane == 0) init_few(control);
    if (warp >= 4) copy_few_queries(params, base, place, warp, lane);
    ptx::named_barrier(kFewStartBarrier, kFewThreads);
    if (warp < 4) copy_few_queries(params, base, place, warp, lane);
    const int blocks = __shfl_sync(~0U, few_blocks(params, place.rank, live_of(params, place.token)), 0);
    const Board board = board_of(params, published);
    settle_few_queries(params, control, base, warp, lane);
    ptx::named_barrier(kFewQueriesBarrier, kFewMath);
    const int group = warp / 4;
    FewScorer scorer(control, base, group, warp % 4);
    HalfSums near = {};
    HalfSums far = {};
    const float forth = power_of(kUnitExponent - part_shift(params));
    Stage stage;
#pragma unroll 1
    for (int block = 0;; block += 2) {
        const Stage own = group == 0 ? stage : next_stage(stage);
        const bool last = block + 2 >= blocks;
        if (scorer.run(own, block + group < blocks, last)) {
            scale_half(near, control.correction, lane_anew());
            scale_half(far, control.correction, lane_anew());
        }
        if (last) ptx::named_barrier_arrive(kFewSumsBarrier, kFewThreads);
        const int other = block + 1 < blocks ? next_stage(stage).index : stage.index;
        add_half(ValuePlace(control, base, warp, 0, lane_anew()), stage.index, other, near);
        if (last) {
            stage_half(near, forth, base + warp * (kHeads / 8 * kRowBytes) + lane_anew() * 16);
            ptx::named_barrier_arrive(kFewStagedBarrier, kFewMath + 64);
        }
        add_half(ValuePlace(control, base, warp, 1, lane_anew()), stage.index, other, far);
        if (last) break;
        __syncwarp();
        if (lane_anew() == 0) {
            ptx::barrier_arrive(&control.read[stage.index]);
            ptx::barrier_arrive(&control.read[other]);
        }
        stage = next_stage(next_stage(stage));
    }
    const OwnedRows own(control.params, place.rank);
#pragma unroll
    for (int j = 0; j < kHeads / 8; ++j)
        board.store(place.rank, own, base, kHalfRows + warp * (kHeads / 8) + j, packed(far, forth, j), lane_anew());
    ptx::named_barrier_arrive(kFewStoredBarrier, kFewMath + 64);
    const float back = power_of(kUnitExponent + part_shift(params));
    gather_published(control.params, control, board, base, place, back, warp, lane_anew(),
                     [] { ptx::named_barrier(kFewReadyBarrier, kFewMath + 96); });
}

__global__ void __launch_bounds__(kFewThreads, 1)
    few_decode(const __grid_constant__ Params params, const __grid_constant__ Published published) {
    extern __shared__ __align__(1024) unsigned char shared[];
    auto& control = *reinterpret_cast<FewControl*>(shared + FewLayout::kControl);
    const std::uint32_t base = ptx::shared_address(shared);
    const WidePlace place = {static_cast<int>(blockIdx.x), static_cast<int>(params.first.of_splits + blockIdx.z),
                             static_cast<int>(blockIdx.y) * kHeads};
    const int warp = __shfl_sync(~0U, static_cast<int>(threadIdx.x) / 32, 0);
    constexpr int kMathWarps = kFewMath / 32;
    if (warp >= kMathWarps) {
        ptx::set_registers<kFewThreads, kFewBringRegisters>();
        bring_few(params, published, control, base, place, warp - kMathWarps, lane_anew());
    } else {
        ptx::set_registers<kFewThreads, kFewMathRegisters>();
        calculate_few(params, published, control, base, place, warp, lane_anew());
    }
}

}  // namespace tokamak::mla::cuda::wide_decode
