// SPDX-License-Identifier: Apache-2.0
#include "moe/cuda/wide/kernel.cuh"
#include "moe/cuda/wide/weights.cuh"

namespace tokamak::moe::cuda {
WideInstance wide_mxfp4_a8_n64_bf16() {
    return wide_instance<WideShape<WideRounded4Bit<Mxfp4Weights>, 32, 8, 64>>("wide_n64_bf16");
}
}  // namespace tokamak::moe::cuda
