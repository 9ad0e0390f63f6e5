// SPDX-License-Identifier: Apache-2.0
#include "moe/cuda/wide/kernel.cuh"
#include "moe/cuda/wide/weights.cuh"

namespace tokamak::moe::cuda {
WideInstance wide_int4_g64_n96() { return wide_instance<WideShape<Wide4Bit<Int4Weights<64>>, 2, 2, 32, 32, 96>>("wide_n96"); }
}  // namespace tokamak::moe::cuda
