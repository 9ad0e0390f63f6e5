// SPDX-License-Identifier: Apache-2.0
#include "moe/cuda/wide/kernel.cuh"
#include "moe/cuda/wide/weights.cuh"

namespace tokamak::moe::cuda {
WideInstance wide_int4_g32_a8_n64() {
    return wide_instance<WideShape<WideRounded4Bit<Int4Weights<32>>, 32, 8, 64>>("wide_n64_bf16");
}
}  // namespace tokamak::moe::cuda
