// SPDX-License-Identifier: Apache-2.0
// The stages of a unit of 4-bit weights by wgmma, for more than 16 rows: matrix instructions take issue slots of their
// scheduler from everything else, for 64 x 16 weights wgmma 13 to 16 up to 32 rows, mma.sync 6 for each 8 rows. Both
// give the same bits.
#pragma once

#include <cstdint>

#include "cuda/ptx/wgmma_bf16.cuh"
#include "moe/cuda/grouped/multiply_ahead.cuh"

namespace tokamak::moe::cuda {

/// Has 64 columns of both strips multiplied; `rows`: word of the rows' descriptor.
template <int Eights>
__device__ __forceinline__ void multiply_block(const std::uint32_t (&a)[2][4][4], std::uint32_t rows,
                                               float (&sums)[2][Eights][4]) {
    ptx::wgmma_fence();
#pragma unroll
    for (int step = 0; step < 4; ++step)
#pragma unroll
        for (int i = 0; i < 2; ++i) ptx::wgmma_bf16(sums[i], a[i][step], ptx::wgmma_step(rows, step));
    ptx::wgmma_commit();
}

/// `blocks` of 64 columns of the warpgroup's two strips. Both are converted, then multiplied, then waited for: two
/// other warpgroups convert meanwhile, and a second set of operands would not find registers. What a block is converted
/// from is loaded under the products of the one before; a stage is asked for at the beginning of the one before. A
/// stage without a second block has zeros there, or half of it is multiplied.
template <class Shape, int Eights>
__device__ __forceinline__ void multiply_by_warpgroup(const StageRing<Shape>& ring, RingPlace& place,
                                                      const Consumer& me, int blocks, float (&sums)[2][Eights][4]) {
    using Weights = typename Shape::Weights;
    static_assert(Weights::kStageBlocks == 2);
    constexpr int strip_bytes = Shape::kWarpgroups * Weights::kStripStageBytes;
    const LanePlaces<Shape> places(me);
    const bool leader = threadIdx.x % 32 == 0;
    StageWalk<Shape> walk(ring, place);
    typename Weights::Slab slabs[2];
    walk.await();
    ptx::fence_shared_async();  // rows were written by ordinary copies
    std::uint32_t stage = walk.stage();
#pragma unroll
    for (int i = 0; i < 2; ++i) slabs[i].load(stage + places.codes, stage + places.scales, i * strip_bytes, 0);
#pragma unroll 1
    for (int left = blocks; left > 0; left -= 2) {
        // The result of a reduction is in a uniform register, as are all descriptors made of it.
        const std::uint32_t rows =
            __reduce_or_sync(0xFFFFFFFFU, ptx::wgmma_tile_word(stage + static_cast<std::uint32_t>(Shape::kRowsOffset)));
        const std::uint32_t empty = walk.empty();
        walk.advance();
        const std::uint32_t present = walk.present();
#pragma unroll
        for (int block = 0; block < 2; ++block) {
            std::uint32_t a[2][4][4];
#pragma unroll
            for (int i = 0; i < 2; ++i) slabs[i].convert(a[i]);
            multiply_block(a, rows + static_cast<std::uint32_t>(block) * (Shape::kRowBlockBytes / 16), sums);
            if (block == 1) {
                if (present == 0)
                    if (left > 2) walk.await();
                ptx::fence_shared_async();
                stage = walk.stage();
            }
#pragma unroll
            for (int i = 0; i < 2; ++i)
                slabs[i].load(stage + places.codes, stage + places.scales, i * strip_bytes, 1 - block);
            ptx::wgmma_wait<0>();
            if constexpr (Weights::kHalfStages)
                if (left == 1) break;
        }
        if (leader) ptx::barrier_arrive(empty);
    }
    walk.store(place);
}

}  // namespace tokamak::moe::cuda
