// SPDX-License-Identifier: Apache-2.0
#include "moe/cuda/decode_kernel.cuh"

namespace tokamak::moe::cuda {
DecodeInstance decode_fp8_block() { return decode_instance<tokamak::cuda::Fp8QuantizedTile, 8>(); }
DecodeInstance decode_logits_fp8_block() { return decode_logits_instance<tokamak::cuda::Fp8QuantizedTile, 8>(); }
}  // namespace tokamak::moe::cuda
