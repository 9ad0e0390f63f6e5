// SPDX-License-Identifier: Apache-2.0
#include "moe/cuda/gather_kernel.cuh"

namespace tokamak::moe::cuda {
DecodeInstance gather_int4_g32_f16() { return gather_instance<tokamak::cuda::Int4Tile<32, __half>, 12>(); }
}  // namespace tokamak::moe::cuda
