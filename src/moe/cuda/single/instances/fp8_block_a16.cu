// SPDX-License-Identifier: Apache-2.0
#include "moe/cuda/single/kernel.cuh"

namespace tokamak::moe::cuda {
DecodeInstance single_fp8_block_a16() { return single_instance<tokamak::cuda::Fp8Tile, 8>(); }
}  // namespace tokamak::moe::cuda
