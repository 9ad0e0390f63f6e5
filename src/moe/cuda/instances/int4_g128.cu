// SPDX-License-Identifier: Apache-2.0
#include "moe/cuda/decode_kernel.cuh"

namespace tokamak::moe::cuda {
DecodeInstance decode_int4_g128() { return decode_instance<tokamak::cuda::Int4Tile<128>, 8>(); }
DecodeInstance decode_logits_int4_g128() { return decode_logits_instance<tokamak::cuda::Int4Tile<128>, 8>(); }
}  // namespace tokamak::moe::cuda
