// SPDX-License-Identifier: Apache-2.0
#include "moe/cuda/decode_kernel.cuh"

namespace tokamak::moe::cuda {
DecodeInstance decode_bf16() { return decode_instance<tokamak::cuda::Bf16Tile, 8>(); }
DecodeInstance decode_logits_bf16() { return decode_logits_instance<tokamak::cuda::Bf16Tile, 8>(); }
}  // namespace tokamak::moe::cuda
