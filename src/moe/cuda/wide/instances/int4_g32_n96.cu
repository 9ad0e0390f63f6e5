// SPDX-License-Identifier: Apache-2.0
#include "moe/cuda/wide/kernel.cuh"
#include "moe/cuda/wide/weights.cuh"

namespace tokamak::moe::cuda {
WideInstance wide_int4_g32_n96() { return wide_instance<WideShape<Wide4Bit<Int4Weights<32>>, 64, 16, 96>>("wide_n96"); }
}  // namespace tokamak::moe::cuda
