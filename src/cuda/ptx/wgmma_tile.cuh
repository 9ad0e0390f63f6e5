// SPDX-License-Identifier: Apache-2.0
// Descriptors of an operand's tiles and steps made of one by additions of 64 bits: one uniform instruction each, where
// wgmma_step, which puts two words together, is three.
#pragma once

#include <cstdint>

#include "cuda/ptx/wgmma.cuh"

namespace tokamak::cuda::ptx {

/// Descriptor of the tile of a wgmma_tile_word.
__device__ __forceinline__ std::uint64_t wgmma_tile(std::uint32_t word) { return wgmma_step(word, 0); }
/// Of what lies `bytes` further, a multiple of 16.
__device__ __forceinline__ std::uint64_t wgmma_further(std::uint64_t descriptor, int bytes) {
    return descriptor + static_cast<std::uint64_t>(bytes / 16);
}

}  // namespace tokamak::cuda::ptx
