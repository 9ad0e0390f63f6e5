// SPDX-License-Identifier: Apache-2.0
#include "moe/cuda/wide/kernel.cuh"
#include "moe/cuda/wide/weights.cuh"

namespace tokamak::moe::cuda {
WideInstance wide_mxfp4_a8_n96_bf16() {
    return wide_instance<WideShape<WideRounded4Bit<Mxfp4Weights>, 64, 16, 96>>("wide_n96_bf16");
}
}  // namespace tokamak::moe::cuda
