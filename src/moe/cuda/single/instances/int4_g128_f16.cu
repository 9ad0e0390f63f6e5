// SPDX-License-Identifier: Apache-2.0
#include "moe/cuda/single/kernel.cuh"

namespace tokamak::moe::cuda {
DecodeInstance single_int4_g128_f16() { return single_instance<tokamak::cuda::Int4Tile<128, __half>, 12>(); }
}  // namespace tokamak::moe::cuda
