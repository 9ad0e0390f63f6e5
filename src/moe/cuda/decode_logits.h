// SPDX-License-Identifier: Apache-2.0
// The decode kernels that take logits.
#pragma once

#include "moe/cuda/decode_args.h"

namespace tokamak::moe::cuda {

DecodeInstance decode_logits_bf16();
DecodeInstance decode_logits_fp8_block();
DecodeInstance decode_logits_fp8_block_a16();
DecodeInstance decode_logits_int4_g32();
DecodeInstance decode_logits_int4_g64();
DecodeInstance decode_logits_int4_g128();
DecodeInstance decode_logits_int4_g32_f16();
DecodeInstance decode_logits_int4_g64_f16();
DecodeInstance decode_logits_int4_g128_f16();
DecodeInstance decode_logits_mxfp4();
DecodeInstance decode_logits_nvfp4();

}  // namespace tokamak::moe::cuda
