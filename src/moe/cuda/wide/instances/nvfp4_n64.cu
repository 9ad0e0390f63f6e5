// SPDX-License-Identifier: Apache-2.0
#include "moe/cuda/wide/kernel.cuh"
#include "moe/cuda/wide/weights.cuh"

namespace tokamak::moe::cuda {
WideInstance wide_nvfp4_n64() {
    WideInstance instance = wide_instance<WideShape<WideNvfp4Parts, 32, 8, 64, WideCombines::rows>>("wide_n64");
    instance.atomic_kernel = wide_nvfp4_n64_atomic().kernel;
    return instance;
}
}  // namespace tokamak::moe::cuda
