// SPDX-License-Identifier: Apache-2.0
// How far the rows of the intermediate are: the down phase does not wait for a barrier of the grid.
#pragma once

#include <cstdint>

namespace tokamak::moe::cuda {

/// Finished gate/up units of row tiles, in the workspace.
struct TileCounts {
    std::int32_t* counts;

    __device__ void add(int tile) const {
        asm volatile("red.release.gpu.global.add.s32 [%0], 1;" ::"l"(counts + tile) : "memory");
    }
    __device__ void await(int tile, int units) const {
        int count = 0;
        while (count < units)
            asm volatile("ld.acquire.gpu.global.s32 %0, [%1];" : "=r"(count) : "l"(counts + tile) : "memory");
    }
};

}  // namespace tokamak::moe::cuda
