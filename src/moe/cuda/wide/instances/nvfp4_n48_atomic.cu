// SPDX-License-Identifier: Apache-2.0
#include "moe/cuda/wide/kernel.cuh"
#include "moe/cuda/wide/weights.cuh"

namespace tokamak::moe::cuda {
WideInstance wide_nvfp4_n48_atomic() {
    return wide_instance<WideShape<WideNvfp4Parts, 32, 8, 48, WideCombines::atomic, 3, 2>>("wide_n48");
}
}  // namespace tokamak::moe::cuda
