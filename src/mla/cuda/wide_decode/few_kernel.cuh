// SPDX-License-Identifier: Apache-2.0
// The wide decode kernel for few tokens: so many splits that their blocks take the whole chip, which clusters do not.
// All blocks run at once (a cooperative launch), and the splits exchange their sums by way of the caller's workspace.
// All rows of a split are in shared memory at once. Two warpgroups score every other block of them, make weights
// together and add values; one brings rows, tells sums and exchanges the first half of the output. See
// docs/kernels/sparse_mla_wide_few.md.
#pragma once

#include "mla/cuda/wide_decode/few_bring.cuh"
#include "mla/cuda/wide_decode/few_score.cuh"
#include "mla/cuda/wide_decode/published.cuh"

namespace tokamak::mla::cuda::wide_decode {

__device__ __forceinline__ void init_few(FewControl& control) {
#pragma unroll
    for (int block = 0; block < kFewBlocks; ++block) {
        ptx::barrier_init(&control.full[block], kFewBringers);
        ptx::barrier_init(&control.counted[block], kFewBringers / 32);
        ptx::barrier_init(&control.settled[block], kFewBringers / 32);
    }
#pragma unroll
    for (int place = 0; place < kRotaryPlaces; ++place) {
        ptx::barrier_init(&control.rotary_full[place], kFewBringers);
        ptx::barrier_init(&control.rotary_read[place], kFewMath / 2 / 32);
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

/// What parts are divided by, as an exponent of 2: weights are at most 1, values are below 2^15, a share has fewer rows
/// than 2^(32 - leading zeros).
__device__ __forceinline__ int part_shift(const Params& params) { return 32 - __clz(params.first.share + 8); }
__device__ __forceinline__ float part_back(const Params& params) {
    return power_of(kUnitExponent + part_shift(params));
}

/// Sums of heads; a thread has a head each.
__device__ __forceinline__ void exchange_sums(const Params& params, FewControl& control, const WidePlace& place,
                                              const Board& board, int warp, int lane) {
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
    const HeadSums sums = merge_published<kMostPublished>(board, control, params.splits, h, sink);
    ptx::named_barrier_arrive(kFewReadyBarrier, kFewMath + 64);
    if (real && place.rank == 0) store_statistics(params, place.token, head, sums, sink);
}

/// What the bringing warps do when all weights are made: two have a head each thread, two see to the first half of the
/// output, which all of them add up.
__device__ __forceinline__ void exchange_few(const Params& params, FewControl& control, std::uint32_t base,
                                             const WidePlace& place, const Board& board, int warp, int lane) {
    const OwnedRows own(params, place.rank);
    const std::uint32_t staged = base + FewLayout::kStaged;
    if (warp < 2) {
        ptx::named_barrier(kFewStagedBarrier, kFewMath + 64);
        board.store_staged(place.rank, own, staged, warp, lane);
        ptx::named_barrier(kFewFirstBarrier, 64);
        if (warp == 0) {
            board.raise(place.rank, kFirstFlag, params.splits, lane);
            board.await(place.rank, kFirstFlag, params.splits, lane);
        }
    } else {
        exchange_sums(params, control, place, board, warp, lane);
    }
    ptx::named_barrier(kFewMergedBarrier, kFewBringers);
    const Gather gather = {params, control, board, place, part_back(params)};
    gather.add_up_all<2>(0, own, staged + own.first * kRowBytes, warp, kFewBringers / 32, lane);
}

/// Whether the device count takes the block's token away.
__device__ __forceinline__ bool leaves(const Params& params, const WidePlace& place) {
    return params.num_tokens != nullptr && place.token >= *params.num_tokens;
}

__device__ __forceinline__ Board board_of(const Params& params, const Published& published) {
    return {params, published, static_cast<int>(blockIdx.z * gridDim.y + blockIdx.y)};
}

template <int Pairs>
__device__ __forceinline__ void bring_few(const Params& params, const Published& published, FewControl& control,
                                          std::uint32_t base, const WidePlace& place, int warp, int lane) {
    FewBringer<Pairs> bringer(params, control, base, place.token, place.rank, warp, lane);
    if (leaves(params, place)) return;
    ptx::named_barrier(kFewStartBarrier, kFewThreads);
    bringer.ask();
    bringer.settle_all();
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

template <int Pairs>
__device__ __forceinline__ void calculate_few(const Params& params, const Published& published, FewControl& control,
                                              std::uint32_t base, const WidePlace& place, int warp, int lane) {
    keep_params(params, control.params, warp, lane);
    if (leaves(params, place)) return;
    if (warp == 0 && lane == 0) init_few(control);
    if (warp >= 4) copy_few_queries(params, base, place, warp, lane);
    ptx::named_barrier(kFewStartBarrier, kFewThreads);
    if (warp < 4) copy_few_queries(params, base, place, warp, lane);
    const Board board = board_of(params, published);
    settle_few_queries(params, control, base, warp, lane);
    ptx::named_barrier(kFewQueriesBarrier, kFewMath);
    FewScorer(control, base, warp / 4, warp % 4).template run<Pairs>();
    ptx::named_barrier(kFewWeightsBarrier, kFewMath);
    ptx::named_barrier_arrive(kFewSumsBarrier, kFewThreads);
    const float forth = power_of(kUnitExponent - part_shift(params));
    const OwnedRows own(control.params, place.rank);
    HalfSums sums;
#pragma unroll 1
    for (int half = 0; half < 2; ++half) {
        clear_half(sums);
        ValuePlace values(control, base, warp, half, lane_anew());
#pragma unroll 1
        for (int pair = 0; pair < Pairs; ++pair, values.next_pair()) add_pair(values, sums);
        if (half == 1) break;
        stage_half(sums, forth, base + FewLayout::kStaged + warp * (kHeads / 8 * kRowBytes) + lane_anew() * 16);
        ptx::named_barrier_arrive(kFewStagedBarrier, kFewMath + 64);
    }
    const std::uint32_t kept = base + FewLayout::kKept;
#pragma unroll
    for (int j = 0; j < kHeads / 8; ++j)
        board.store(place.rank, own, kept, warp * (kHeads / 8) + j, packed(sums, forth, j), lane_anew());
    ptx::named_barrier(kFewStoredBarrier, kFewMath);
    if (warp == 0) {
        board.raise(place.rank, kSecondFlag, control.params.splits, lane_anew());
        board.await(place.rank, kSecondFlag, control.params.splits, lane_anew());
    }
    ptx::named_barrier(kFewReadyBarrier, kFewMath + 64);
    const Gather gather = {control.params, control, board, place, part_back(params)};
    gather.add_up_all<1>(1, own, kept, warp, kFewMath / 32, lane_anew());
}

template <int Pairs>
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
        bring_few<Pairs>(params, published, control, base, place, warp - kMathWarps, lane_anew());
    } else {
        ptx::set_registers<kFewThreads, kFewMathRegisters>();
        calculate_few<Pairs>(params, published, control, base, place, warp, lane_anew());
    }
}

}  // namespace tokamak::mla::cuda::wide_decode
