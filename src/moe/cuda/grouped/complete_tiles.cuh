// SPDX-License-Identifier: Apache-2.0
// Which results are there, where CTAs ask for units: those of the down phase are dealt row tile by row tile, so that
// tiles are complete in about that order and idle warps combine tokens while the last units are at work.
#pragma once

#include <cstdint>

#include "cuda/ptx/barrier.cuh"
#include "moe/cuda/grouped/shape.cuh"

namespace tokamak::moe::cuda {

/// By one warp of each CTA that has nothing else to do: how many row tiles are complete, from the first on, until all
/// are. All others look in shared memory: thousands of warps that poll the workspace would hold up the last units.
__device__ __forceinline__ void watch_tiles(const GroupedArgs& args, const RowLists& lists) {
    const int tiles = lists.tile_count();
    const int coarse = lists.coarse_tiles();
    for (int done = 0; done < tiles;) {
        const int tile = done + static_cast<int>(threadIdx.x) % 32;
        const auto units = static_cast<int>(args.cuts[0].units.value + args.cuts[tile < coarse ? 1 : 2].units.value);
        int found = 0;
        if (tile < tiles)
            asm volatile("ld.acquire.gpu.global.s32 %0, [%1];" : "=r"(found) : "l"(args.tile_units + tile) : "memory");
        const std::uint32_t open = ~__ballot_sync(0xFFFFFFFFU, tile < tiles && found >= units);
        const int more = open == 0 ? 32 : __ffs(static_cast<int>(open)) - 1;
        if (more == 0) continue;
        done += more;
        if (threadIdx.x % 32 == 0)
            asm volatile("st.release.cta.shared.s32 [%0], %1;" ::"r"(
                             tokamak::cuda::ptx::shared_address(&lists.counts[kCompleteTiles])),
                         "r"(done)
                         : "memory");
    }
}

/// Until that many are.
__device__ __forceinline__ void await_tiles(const RowLists& lists, int tiles) {
    for (;;) {
        int complete;
        asm volatile("ld.acquire.cta.shared.s32 %0, [%1];"
                     : "=r"(complete)
                     : "r"(tokamak::cuda::ptx::shared_address(&lists.counts[kCompleteTiles]))
                     : "memory");
        if (complete >= tiles) return;
        __nanosleep(40);
    }
}

}  // namespace tokamak::moe::cuda
