// SPDX-License-Identifier: Apache-2.0
#include "moe/cuda/decode_kernel.cuh"

namespace tokamak::moe::cuda {
DecodeInstance decode_nvfp4() { return decode_instance<tokamak::cuda::Nvfp4Tile, 8>(); }
DecodeInstance decode_logits_nvfp4() { return decode_logits_instance<tokamak::cuda::Nvfp4Tile, 8>(); }
}  // namespace tokamak::moe::cuda
