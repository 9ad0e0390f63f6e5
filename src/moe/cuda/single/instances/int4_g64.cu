// SPDX-License-Identifier: Apache-2.0
#include "moe/cuda/single/kernel.cuh"

namespace tokamak::moe::cuda {
DecodeInstance single_int4_g64() { return single_instance<tokamak::cuda::Int4Tile<64>, 12>(); }
}  // namespace tokamak::moe::cuda
