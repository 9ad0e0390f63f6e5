// SPDX-License-Identifier: Apache-2.0
#include "moe/cuda/decode_kernel.cuh"

namespace tokamak::moe::cuda {
DecodeInstance decode_fp8_block_a16() { return decode_instance<tokamak::cuda::Fp8Tile, 8>(); }
DecodeInstance decode_logits_fp8_block_a16() { return decode_logits_instance<tokamak::cuda::Fp8Tile, 8>(); }
}  // namespace tokamak::moe::cuda
