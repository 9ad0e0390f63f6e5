// SPDX-License-Identifier: Apache-2.0
#include "moe/cuda/single/kernel.cuh"

namespace tokamak::moe::cuda {
DecodeInstance single_bf16() { return single_instance<tokamak::cuda::Bf16Tile, 8>(); }
}  // namespace tokamak::moe::cuda
