// SPDX-License-Identifier: Apache-2.0
// The stages of a unit of 4-bit weights by wgmma, for more than 16 rows: matrix instructions take issue slots of their
// scheduler from everything else, for 64 x 16 weights wgmma 13 to 16 up to 32 rows, mma.sync 6 for each 8 rows. Both
// give the same bits.
#pragma once

#include <cstdint>

#include "cuda/ptx/wgmma_bf16.cuh"
#include "moe/cuda/grouped/multiply_ahead.cuh"

namespace tokamak::moe::cuda {

/// Has 64 columns of both strips multiplied; `rows`: descriptor of the stage's.
template <class Shape, int Eights>
__device__ __forceinline__ void multiply_block(const std::uint32_t (&a)[2][4][4], std::uint64_t rows, int block,
                                               float (&sums)[2][Eights][4]) {
    ptx::wgmma_fence();
#pragma unroll
    for (int step = 0; step < 4; ++step)
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            std::uint64_t of_step = ptx::wgmma_further(rows, block * Shape::kRowBlockBytes + step * 32);
            asm volatile("" : "+l"(of_step));  // else it is kept for both strips, in ordinary registers
            ptx::wgmma_bf16(sums[i], a[i][step], of_step);
        }
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
    UnitStages<Shape, 2> stages(ring, place, me);
    typename Weights::Slab slabs[2];
    stages.await();
    stages.find();
    ptx::fence_shared_async();  // rows were written by ordinary copies
    stages.load(slabs, 0);
#pragma unroll 1
    for (int left = blocks; left > 0; left -= 2) {
        const std::uint64_t rows = stages.rows();
        const std::uint32_t own = stages.place();
        stages.advance();
        const std::uint32_t present = stages.present();
#pragma unroll
        for (int block = 0; block < 2; ++block) {
            std::uint32_t a[2][4][4];
#pragma unroll
            for (int i = 0; i < 2; ++i) slabs[i].convert(a[i]);
            multiply_block<Shape>(a, rows, block, sums);
            if (block == 1) {
                if (__any_sync(0xFFFFFFFFU, present == 0 && left > 2)) stages.await();
                ptx::fence_shared_async();
                stages.find();
            }
            stages.load(slabs, 1 - block);
            ptx::wgmma_wait<0>();
            if constexpr (Weights::kHalfStages)
                if (left == 1) break;
        }
        stages.give_back(own);
    }
    stages.store(place);
}

}  // namespace tokamak::moe::cuda
