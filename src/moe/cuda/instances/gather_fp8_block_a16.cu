// SPDX-License-Identifier: Apache-2.0
#include "moe/cuda/gather_kernel.cuh"

namespace tokamak::moe::cuda {
DecodeInstance gather_fp8_block_a16() { return gather_instance<tokamak::cuda::Fp8Tile, 8>(); }
}  // namespace tokamak::moe::cuda
