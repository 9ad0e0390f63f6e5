// SPDX-License-Identifier: Apache-2.0
// The two accumulating warpgroups: out^T[dim][head] += values^T[dim][row] weights^T[row][head]. A slab of rows is read
// transposed by the tensor cores, so each slab is one output tile; the warpgroups take the even and the odd ones.
#pragma once

#include "cuda/ptx/wgmma_bf16.cuh"
#include "mla/cuda/sparse_decode/shared.cuh"

namespace tokamak::mla::cuda::sparse_decode {

inline constexpr int kOwnTiles = kValueTiles / 2;

/// Fragments of the tiles 2 i + group: column (head) pairs as in the scorer, rows are dimensions.
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

template <int Dim, int N>
__device__ __forceinline__ void accumulate(const Params& params, Control<N>& control, unsigned char* shared, int blocks,
                                           int group, int lane, Sums<N>& sums) {
    constexpr int kSlabs = Dim / kSlabDims;
    const int slots = params.shared.slots;
#pragma unroll
    for (int i = 0; i < kOwnTiles; ++i)
#pragma unroll
        for (int e = 0; e < N / 2; ++e) sums.tile[i][e] = 0.0F;
    int first = 0;  // slot of the block's first slab
    for (int block = 0; block < blocks; ++block) {
        const int buffer = block & 1;
        ptx::barrier_wait(&control.weights_full[buffer], (block >> 1) & 1U);
        if (control.corrected[buffer] != 0) sums.scale(control.correction[buffer], lane);
        const std::uint64_t weights = ptx::wgmma_descriptor(shared + params.shared.weights + buffer * N * 128);
        int slot[kOwnTiles];
        ptx::wgmma_fence();
#pragma unroll
        for (int i = 0; i < kOwnTiles; ++i) {
            slot[i] = first + 2 * i + group;
            if (slot[i] >= slots) slot[i] -= slots;
            const std::uint64_t values = ptx::wgmma_descriptor(shared + params.shared.ring + slot[i] * kSlabBytes);
#pragma unroll
            for (int k = 0; k < 4; ++k) ptx::wgmma_bf16<true>(sums.tile[i], values + 128 * k, weights + 2 * k, true);
            ptx::wgmma_commit();
        }
        const auto release = [&](int i) {
            if (lane == 0) ptx::barrier_arrive(&control.empty[slot[i]]);
        };
        static_assert(kOwnTiles == 4);
        ptx::wgmma_wait<3>();
        release(0);
        ptx::wgmma_wait<2>();
        release(1);
        ptx::wgmma_wait<1>();
        release(2);
        ptx::wgmma_wait<0>();
        release(3);
        if (lane == 0) ptx::barrier_arrive(&control.weights_empty[buffer]);
        first += kSlabs;
        if (first >= slots) first -= slots;
    }
}

}  // namespace tokamak::mla::cuda::sparse_decode
