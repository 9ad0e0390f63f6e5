// SPDX-License-Identifier: Apache-2.0
#include "moe/cuda/wide/kernel.cuh"
#include "moe/cuda/wide/weights.cuh"

namespace tokamak::moe::cuda {
WideInstance wide_int4_g32_n48() { return wide_instance<WideShape<Wide4Bit<Int4Weights<32>>, 3, 2, 16, 16, 48>>("wide_r384_n48"); }
}  // namespace tokamak::moe::cuda
