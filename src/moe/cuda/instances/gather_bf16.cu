// SPDX-License-Identifier: Apache-2.0
#include "moe/cuda/gather_kernel.cuh"

namespace tokamak::moe::cuda {
DecodeInstance gather_bf16() { return gather_instance<tokamak::cuda::Bf16Tile, 8>(); }
}  // namespace tokamak::moe::cuda
