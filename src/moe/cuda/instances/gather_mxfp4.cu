// SPDX-License-Identifier: Apache-2.0
#include "moe/cuda/gather_kernel.cuh"

namespace tokamak::moe::cuda {
DecodeInstance gather_mxfp4() { return gather_instance<tokamak::cuda::Mxfp4Tile, 12>(); }
}  // namespace tokamak::moe::cuda
