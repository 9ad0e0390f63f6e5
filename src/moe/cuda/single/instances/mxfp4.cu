// SPDX-License-Identifier: Apache-2.0
#include "moe/cuda/single/kernel.cuh"

namespace tokamak::moe::cuda {
DecodeInstance single_mxfp4() { return single_instance<tokamak::cuda::Mxfp4Tile, 12>(); }
}  // namespace tokamak::moe::cuda
