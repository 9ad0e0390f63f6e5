// SPDX-License-Identifier: Apache-2.0
#include "moe/cuda/wide/kernel.cuh"
#include "moe/cuda/wide/weights.cuh"

namespace tokamak::moe::cuda {
WideInstance wide_fp8_block_n128() {
    WideInstance instance = wide_instance<WideShape<WideE4m3, 16, 16, 128, WideCombines::rows>>("wide_n128");
    instance.atomic_kernel = wide_fp8_block_n128_atomic().kernel;
    return instance;
}
}  // namespace tokamak::moe::cuda
