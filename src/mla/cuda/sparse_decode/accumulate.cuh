// SPDX-License-Identifier: Apache-2.0
// The two accumulating warpgroups: out^T[dim][head] += values^T[dim][row] weights^T[row][head]. A slab of rows is read
// transposed by the tensor cores, so each slab is one output tile; the warpgroups take every other one.
#pragma once

#include "cuda/ptx/wgmma_16bit.cuh"
#include "mla/cuda/sparse_decode/pair.cuh"

namespace tokamak::mla::cuda::sparse_decode {

inline constexpr int kOwnTiles = kValueTiles / 2;

/// Output tile (dimensions [64 t, 64 t + 64)) number i of accumulating warpgroup `group`: in the order of the slabs.
template <int Dim>
__device__ __forceinline__ int own_tile(int i, int group) {
    return (2 * i + group + Slabs<Dim>::kFirstValues + kValueTiles - 1) % kValueTiles;
}

/// Fragments of a warpgroup's tiles: column (head) pairs as in the scorer, rows are dimensions.
template <int N>
struct Sums {
    float tile[kOwnTiles][N / 2];

    /// Multiplies each head's column by its entry of `factors`.
    __device__ __forceinline__ void scale(const float* factors, int lane) {
#pragma unroll
        for (int g = 0; g < N / 8; ++g) {
            const float2 f = *reinterpret_cast<const float2*>(&factors[8 * g + 2 * (lane & 3)]);
#pragma unroll
            for (int i = 0; i < kOwnTiles; ++i) {
                tile[i][4 * g] *= f.x;
                tile[i][4 * g + 1] *= f.y;
                tile[i][4 * g + 2] *= f.x;
                tile[i][4 * g + 3] *= f.y;
            }
        }
    }
};

template <int Dim, int N, bool Half, bool Pair>
__device__ __forceinline__ void accumulate(const Params& params, Control<N>& control, unsigned char* shared, int blocks,
                                           int group, int lane, Sums<N>& sums) {
    using Shape = Slabs<Dim>;
    const int stages = params.shared.stages;
#pragma unroll
    for (int i = 0; i < kOwnTiles; ++i)
#pragma unroll
        for (int e = 0; e < N / 2; ++e) sums.tile[i][e] = 0.0F;
    int first = 0;  // the block's first stage
    for (int block = 0; block < blocks; ++block) {
        const int buffer = block % kWeightBuffers<N>;
        ptx::barrier_wait(&control.weights_full[buffer], block / kWeightBuffers<N> & 1U);
        if (control.corrected[buffer] != 0) sums.scale(control.correction[buffer], lane);
        const std::uint64_t weights = ptx::wgmma_descriptor(shared + params.shared.weights + buffer * N * 128);
        const bool rests = Half && Shape::kRests && control.odd[block % kNoteDepth] != 0;
        int stage[Shape::kStages];
#pragma unroll
        for (int s = 0; s < Shape::kStages; ++s) {
            stage[s] = first + (rests ? 2 * s + 1 : s);
            if (stage[s] >= stages) stage[s] -= stages;
        }
        const auto release = [&](int s) { release_stage<N, Pair>(control, stage[s], lane); };
        const auto release_slab = [&](int position) {
            const int s = position / Shape::kPerStage;
            const int at = s == 0 ? stage[0] : s == Shape::kStages - 1 ? stage[Shape::kStages - 1] : stage[1];
            if (lane == 0)
                ptx::barrier_arrive(position % Shape::kPerStage == 0 ? &control.first_empty[at] : &control.empty[at]);
        };
        ptx::wgmma_fence();
#pragma unroll
        for (int i = 0; i < kOwnTiles; ++i) {
            const int position = Shape::kFirstValues + 2 * i + group;
            const int s = position / Shape::kPerStage;
            // Only neighbours of a stage's border depend on the warpgroup.
            constexpr int kLastStage = Shape::kStages - 1;
            const int at = s == 0 ? stage[0] : s == kLastStage ? stage[kLastStage] : stage[Shape::kStages / 2];
            const std::uint64_t values = ptx::wgmma_descriptor(shared + params.shared.ring + at * Shape::kStageBytes +
                                                               position % Shape::kPerStage * kSlabBytes);
#pragma unroll
            for (int k = 0; k < 4; ++k)
                ptx::wgmma_16bit<Half, true>(sums.tile[i], values + 128 * k, weights + 2 * k, true);
            ptx::wgmma_commit();
            if constexpr (Shape::template kSplitRelease<Half>) {
                if (i == 0) continue;
                ptx::wgmma_wait<1>();
                release_slab(position - 2);
                continue;
            }
            // A stage is let go as soon as it can be: the issue of a tile takes as long as the work of the one before.
            if (i == (Shape::kStages == 3 ? 1 : 2)) {
                ptx::wgmma_wait<1>();
                release(0);
            }
            if (Shape::kStages == 3 && i == 3) {
                ptx::wgmma_wait<1>();
                release(1);
            }
        }
        ptx::wgmma_wait<0>();
        if constexpr (Shape::template kSplitRelease<Half>)
            release_slab(Shape::kFirstValues + 2 * (kOwnTiles - 1) + group);
        else
            release(Shape::kStages - 1);
        if (lane == 0) ptx::barrier_arrive(&control.weights_empty[buffer]);
        first = stage[Shape::kStages - 1] + 1 < stages ? stage[Shape::kStages - 1] + 1 : 0;
    }
}

}  // namespace tokamak::mla::cuda::sparse_decode
