// SPDX-License-Identifier: Apache-2.0
// The sums of a unit for up to 64 rows, of weights that are converted in registers: a wgmma takes 8 and N / 4 issue
// slots of its scheduler, and whatever is issued besides adds up with them, so instructions count.
#pragma once

#include <cstdint>

#include "moe/cuda/wide/multiply.cuh"

namespace tokamak::moe::cuda {

/// Strips of a unit that a warpgroup has at most.
template <class Shape>
__device__ __forceinline__ int warpgroup_share(int strips) {
    return Shape::kWholeUnits ? Shape::kStripsEach : (strips + Shape::kWarpgroups - 1) / Shape::kWarpgroups;
}

/// Of a unit's strips those of a warpgroup.
template <class Shape>
__device__ __forceinline__ WideRange warpgroup_strips(const WideUnit& unit, const WideConsumer& me) {
    const int each = warpgroup_share<Shape>(unit.strips);
    return {me.warpgroup * each, min(me.warpgroup * each + each, unit.strips)};
}

/// Converts 128 columns of one strip, part `number` of a stage, then has them multiplied.
template <class Shape, class Part, int Eights>
__device__ __forceinline__ void multiply_part(Part& part, const typename Part::StageScales& scales, int number,
                                              std::uint64_t rows, std::uint32_t (&a)[2][4][4],
                                              float (&sums)[Eights][4]) {
    part.convert(scales, number, a);
    ptx::wgmma_fence();
#pragma unroll
    for (int step = 0; step < 8; ++step)
        ptx::wgmma_bf16(sums, a[step / 4][step % 4],
                        ptx::wgmma_further(rows, step / 4 * Shape::kRowBlockBytes + step % 4 * 32));
    ptx::wgmma_commit();
}

/// The first 64 of them.
template <class Part, int Eights>
__device__ __forceinline__ void multiply_first(Part& part, const typename Part::StageScales& scales, int number,
                                               std::uint64_t rows, std::uint32_t (&a)[4][4], float (&sums)[Eights][4]) {
    part.convert_first(scales, number, a);
    ptx::wgmma_fence();
#pragma unroll
    for (int step = 0; step < 4; ++step) ptx::wgmma_bf16(sums, a[step], ptx::wgmma_further(rows, step * 32));
    ptx::wgmma_commit();
}

/// A warpgroup's strips over whole stages, which have two parts of 128 columns for it: of two strips, or of one. The
/// second part is converted while the first one is multiplied, which needs a set of registers for each; ptxas would
/// serialise all multiplications if the second one's were still on their way in the next stage (C7512). What is
/// converted is loaded a stage ahead, behind the last stage of the unit from whatever lies there.
template <class Shape, int Strips, int Eights>
__device__ __forceinline__ void multiply_unit_parts(WideStages<Shape>& stages, int first, int blocks,
                                                    const WideConsumer& me, float (&sums)[Strips][Eights][4]) {
    constexpr int stage_blocks = Shape::kBlocks;
    static_assert(Strips * stage_blocks == 4);
    constexpr bool two_strips = Strips == 2;
    WideLaneStages<Shape> lane(stages, first, me);
    std::uint32_t a[2][2][4][4];
    typename Shape::Weights::Part parts[2];
    typename Shape::Weights::Part::StageScales scales;
    const auto load = [&](int left) {
        scales.load(lane.scales());
        lane.load(parts[0], 0, 0);
        lane.load(parts[1], two_strips ? 1 : 0, two_strips ? 0 : 2);
        scales.share(lane.codes(), left);
    };
    const auto second = [](std::uint64_t rows) {
        return two_strips ? rows : ptx::wgmma_further(rows, 2 * Shape::kRowBlockBytes);
    };
    lane.await();
    load(1);
    int left = blocks;
#pragma unroll 1
    while (left >= stage_blocks) {
        const std::uint64_t rows = lane.rows();
        const std::uint32_t own = lane.place();
        lane.advance();
        const std::uint32_t present = lane.present();
        // In plain code the number before is kept beside it, and the vote below waits for the warp: four instructions.
        asm volatile("add.s32 %0, %0, %1;" : "+r"(left) : "n"(-stage_blocks));
        multiply_part<Shape>(parts[0], scales, 0, rows, a[0], sums[0]);
        multiply_part<Shape>(parts[1], scales, 1, second(rows), a[1], sums[Strips - 1]);
        if (__any_sync(0xFFFFFFFFU, present == 0 && left > 0)) lane.await();
        load(left);
        ptx::wgmma_wait<0>();
        lane.give_back(own);
    }
    if (left > 0) {
        std::uint64_t rows = lane.rows();
        if (!two_strips && left > 1) {
            multiply_part<Shape>(parts[0], scales, 0, rows, a[0], sums[0]);
            ptx::wgmma_wait<0>();
            parts[0] = parts[1];
            rows = second(rows);
        }
        if (left % 2 != 0) {
            multiply_first(parts[0], scales, two_strips ? 0 : left / 2, rows, a[0][0], sums[0]);
            if (two_strips) multiply_first(parts[1], scales, 1, rows, a[1][0], sums[Strips - 1]);
            ptx::wgmma_wait<0>();
        }
        lane.give_back(lane.place());
        lane.advance();
    }
    lane.store(stages.place);
}

}  // namespace tokamak::moe::cuda
