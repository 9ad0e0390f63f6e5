// SPDX-License-Identifier: Apache-2.0
// Counts of what is there, in the workspace, that more than one part is added to at once.
#pragma once

#include <cstdint>

#include "moe/cuda/tile_rows.cuh"

namespace tokamak::moe::cuda {

struct WideCounts : TileCounts {
    __device__ void add(int index, int parts = 1) const {
        asm volatile("red.release.gpu.global.add.s32 [%0], %1;" ::"l"(counts + index), "r"(parts) : "memory");
    }
    /// Orders nothing, but leaves what the L1 holds there.
    [[nodiscard]] __device__ int peek(int index) const {
        int count;
        asm volatile("ld.relaxed.gpu.global.s32 %0, [%1];" : "=r"(count) : "l"(counts + index) : "memory");
        return count;
    }
    [[nodiscard]] __device__ int read(int index) const {
        int count;
        asm volatile("ld.acquire.gpu.global.s32 %0, [%1];" : "=r"(count) : "l"(counts + index) : "memory");
        return count;
    }
};

}  // namespace tokamak::moe::cuda
