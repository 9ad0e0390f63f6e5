// SPDX-License-Identifier: Apache-2.0
#include "moe/cuda/single/kernel.cuh"

namespace tokamak::moe::cuda {
DecodeInstance single_fp8_block() { return single_instance<tokamak::cuda::Fp8QuantizedTile, 8>(); }
}  // namespace tokamak::moe::cuda
