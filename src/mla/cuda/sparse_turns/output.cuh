// SPDX-License-Identifier: Apache-2.0
// From the sums of both warpgroups to the caller's statistics and output: heads are rows.
#pragma once

#include "mla/cuda/sparse_decode/output.cuh"
#include "mla/cuda/sparse_decode/statistics.cuh"
#include "mla/cuda/sparse_turns/turns.cuh"

namespace tokamak::mla::cuda::sparse_decode {

/// Tile number i of a warpgroup's half.
template <int Dim>
__device__ __forceinline__ int turn_tile(int group, int i) {
    return slab_dims<Dim>(Slabs<Dim>::kFirstValues + group * (kValueTiles / 2) + i);
}

/// A head's sums of both warpgroups, when they are there.
__device__ __forceinline__ HeadSums turn_sums(const TurnControl& control, int h) {
    HeadSums all;
    all.reference = control.reference[h];
    all.sum = control.sum[0][h] + control.sum[1][h];
    all.top = max_or_nan(control.top[0][h], control.top[1][h]);
    return all;
}

/// 16 heads by 64 dimensions of a warp through 2 KB of shared memory at `staging`, so that 128 bytes leave together.
__device__ __forceinline__ void stage_warp_tile(std::uint32_t staging, const float (&sums)[32][4], int tile,
                                                OutKind kind, int lane) {
#pragma unroll
    for (int g = 0; g < 8; g += 2) {
        std::uint32_t four[4];
#pragma unroll
        for (int p = 0; p < 4; ++p) {
            const float(&o)[4] = sums[8 * tile + g + p / 2];
            four[p] = kind == OutKind::bf16 ? pack_bf16(o[p % 2 * 2], o[p % 2 * 2 + 1])
                                            : pack_f16(o[p % 2 * 2], o[p % 2 * 2 + 1]);
        }
        ptx::store_matrix_x4(staging + swizzled((lane >> 3 & 1) * 8 + (lane & 7), g + (lane >> 4)), four);
    }
}

__device__ __forceinline__ void store_warp_tile(const Params& params, const Target& at, int tile,
                                                std::uint32_t staging) {
    auto* const out = static_cast<std::uint16_t*>(params.out) + at.token * params.out_token_stride + tile * kSlabDims;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        const int row = 4 * i + at.lane / 8;
        const int head = at.first_head + at.warp * 16 + row;
        if (head >= params.heads) return;
        const uint4 eight = load_shared_16(staging + swizzled(row, at.lane % 8));
        std::uint16_t* const to = out + head * params.out_head_stride + at.lane % 8 * 8;
        if (params.out_vectors) {
            *reinterpret_cast<uint4*>(to) = eight;
        } else {
            const std::uint32_t words[4] = {eight.x, eight.y, eight.z, eight.w};
#pragma unroll
            for (int e = 0; e < 8; ++e) to[e] = static_cast<std::uint16_t>(words[e / 2] >> (e % 2 * 16));
        }
    }
}

__device__ __forceinline__ void store_warp_tile_f32(const Params& params, const Target& at, int tile,
                                                    const float (&sums)[32][4], int i) {
    float* const out = static_cast<float*>(params.out) + at.token * params.out_token_stride + tile * kSlabDims;
    const int head = at.first_head + at.warp * 16 + at.lane / 4;
#pragma unroll
    for (int g = 0; g < 8; ++g) {
#pragma unroll
        for (int e = 0; e < 4; ++e)
            if (head + e / 2 * 8 < params.heads)
                out[(head + e / 2 * 8) * params.out_head_stride + 8 * g + 2 * (at.lane & 3) + e % 2] =
                    sums[8 * i + g][e];
    }
}

/// Finished sums of tile number i of the warpgroup to the caller, by way of 2 KB at `staging`.
__device__ __forceinline__ void store_turn_tile(const Params& params, const Target& at, int tile,
                                                const float (&out)[32][4], int i, std::uint32_t staging) {
    if (tile * kSlabDims >= params.value_dim) return;
    if (params.out_kind == OutKind::f32) return store_warp_tile_f32(params, at, tile, out, i);
    stage_warp_tile(staging, out, i, params.out_kind, at.lane);
    __syncwarp();
    store_warp_tile(params, at, tile, staging);
}

/// Behind the last block: the sums of a warpgroup's lanes together, for all to see.
__device__ __forceinline__ void note_sums(TurnControl& control, const Target& at, TwoHeads sums) {
    sums = {add_lanes(sums.low), add_lanes(sums.high)};
    if ((at.lane & 3) == 0) {
        const int h = at.warp * 16 + at.lane / 4;
        control.sum[at.group][h] = sums.low;
        control.sum[at.group][h + 8] = sums.high;
    }
    ptx::named_barrier(kMathBarrier, kTurnMathThreads);
}

/// The output of an unsplit token. The queries' memory is free by now.
template <int Dim>
__device__ __forceinline__ void finish_whole(const Params& params, const TurnControl& control, std::uint32_t base,
                                             const Target& at, float (&out)[32][4]) {
    float factor[2] = {};
#pragma unroll
    for (int e = 0; e < 2; ++e) {
        const int h = at.warp * 16 + at.lane / 4 + 8 * e;
        const int head = at.first_head + h;
        if (head >= params.heads) continue;
        const HeadSums all = turn_sums(control, h);
        const float sink = sink_of(params, head);
        factor[e] = factor_of(all, sink);
        if (at.group == 0 && (at.lane & 3) == 0) store_statistics(params, at.token, head, all, sink);
    }
#pragma unroll
    for (auto& o : out)
#pragma unroll
        for (int e = 0; e < 4; ++e) o[e] *= factor[e / 2];
#pragma unroll
    for (int i = 0; i < kOwnTiles; ++i)
        store_turn_tile(params, at, turn_tile<Dim>(at.group, i), out, i,
                        base + ((at.group * 4 + at.warp) * kOwnTiles + i) * 2048);
}

}  // namespace tokamak::mla::cuda::sparse_decode
