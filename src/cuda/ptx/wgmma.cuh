// SPDX-License-Identifier: Apache-2.0
// Warpgroup matrix instructions with both operands in shared memory. PTX ISA 9.7.15.
#pragma once

#include <cstdint>

#include "cuda/ptx/barrier.cuh"

namespace tokamak::cuda::ptx {

/// Descriptor of a K-major operand tile with the 128-byte swizzle: rows of 128 bytes in groups of 8 (1024 bytes).
__device__ __forceinline__ std::uint64_t wgmma_descriptor(const void* shared) {
    const std::uint64_t address = shared_address(shared);
    constexpr std::uint64_t leading = 1;         // not used with this swizzle
    constexpr std::uint64_t stride = 1024 / 16;  // between groups of 8 rows
    constexpr std::uint64_t swizzle_128 = 1;
    return ((address & 0x3FFFFU) >> 4) | (leading << 16) | (stride << 32) | (swizzle_128 << 62);
}

/// Low word of the descriptor of a tile at a shared address; the high one is constant, so that no addition to the low
/// one carries into it.
__device__ __forceinline__ std::uint32_t wgmma_tile_word(std::uint32_t shared) {
    return (shared & 0x3FFFFU) >> 4 | 1U << 16;
}
/// Descriptor of the tile's columns 32 bytes further for each step.
__device__ __forceinline__ std::uint64_t wgmma_step(std::uint32_t word, int step) {
    constexpr std::uint32_t high = 1024 / 16 | 1U << 30;
    std::uint64_t descriptor;
    asm("mov.b64 %0, {%1, %2};" : "=l"(descriptor) : "r"(word + static_cast<std::uint32_t>(step) * 2), "r"(high));
    return descriptor;
}

__device__ __forceinline__ void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int Pending>
__device__ __forceinline__ void wgmma_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(Pending) : "memory");
}

}  // namespace tokamak::cuda::ptx
