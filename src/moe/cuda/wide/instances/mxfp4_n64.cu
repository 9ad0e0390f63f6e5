// SPDX-License-Identifier: Apache-2.0
#include "moe/cuda/wide/kernel.cuh"
#include "moe/cuda/wide/weights.cuh"

namespace tokamak::moe::cuda {
WideInstance wide_mxfp4_n64() {
    WideInstance instance = wide_instance<WideShape<WideMxfp4Long, 32, 8, 64, WideCombines::rows, 3>>("wide_n64");
    instance.atomic_kernel = wide_mxfp4_n64_atomic().kernel;
    return instance;
}
}  // namespace tokamak::moe::cuda
