// SPDX-License-Identifier: Apache-2.0
#include "moe/cuda/wide/kernel.cuh"
#include "moe/cuda/wide/weights.cuh"

namespace tokamak::moe::cuda {
WideInstance wide_mxfp4_a8_n128() {
    WideInstance instance = wide_instance<WideShape<WideConverted, 16, 16, 128, WideCombines::rows>>("wide_n128");
    instance.atomic_kernel = wide_mxfp4_a8_n128_atomic().kernel;
    return instance;
}
}  // namespace tokamak::moe::cuda
