// SPDX-License-Identifier: Apache-2.0
#include "moe/cuda/gather_kernel.cuh"

namespace tokamak::moe::cuda {
DecodeInstance gather_fp8_block() { return gather_instance<tokamak::cuda::Fp8QuantizedTile, 8>(); }
}  // namespace tokamak::moe::cuda
