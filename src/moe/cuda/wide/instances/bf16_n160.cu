// SPDX-License-Identifier: Apache-2.0
#include "moe/cuda/wide/kernel.cuh"
#include "moe/cuda/wide/weights.cuh"

namespace tokamak::moe::cuda {
WideInstance wide_bf16_n160() {
    WideInstance instance = wide_instance<WideShape<WideBf16, 64, 16, 160, WideCombines::rows>>("wide_n160");
    instance.atomic_kernel = wide_bf16_n160_atomic().kernel;
    instance.half_kernel = wide_bf16_n160_half().kernel;
    return instance;
}
}  // namespace tokamak::moe::cuda
