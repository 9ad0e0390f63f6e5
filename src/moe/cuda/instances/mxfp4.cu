// SPDX-License-Identifier: Apache-2.0
#include "moe/cuda/decode_kernel.cuh"

namespace tokamak::moe::cuda {
DecodeInstance decode_mxfp4() { return decode_instance<tokamak::cuda::Mxfp4Tile, 12>(); }
DecodeInstance decode_logits_mxfp4() { return decode_logits_instance<tokamak::cuda::Mxfp4Tile, 12>(); }
}  // namespace tokamak::moe::cuda
