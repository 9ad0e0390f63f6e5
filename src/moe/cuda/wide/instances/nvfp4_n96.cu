// SPDX-License-Identifier: Apache-2.0
#include "moe/cuda/wide/kernel.cuh"
#include "moe/cuda/wide/weights.cuh"

namespace tokamak::moe::cuda {
WideInstance wide_nvfp4_n96() {
    WideInstance instance = wide_instance<WideShape<WideNvfp4, 64, 16, 96, WideCombines::rows>>("wide_n96");
    instance.atomic_kernel = wide_nvfp4_n96_atomic().kernel;
    return instance;
}
}  // namespace tokamak::moe::cuda
