// SPDX-License-Identifier: Apache-2.0
#include "moe/cuda/single/kernel.cuh"

namespace tokamak::moe::cuda {
DecodeInstance single_nvfp4() { return single_instance<tokamak::cuda::Nvfp4Tile, 12>(); }
}  // namespace tokamak::moe::cuda
