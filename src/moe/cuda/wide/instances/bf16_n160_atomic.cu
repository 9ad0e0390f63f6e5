// SPDX-License-Identifier: Apache-2.0
#include "moe/cuda/wide/kernel.cuh"
#include "moe/cuda/wide/weights.cuh"

namespace tokamak::moe::cuda {
WideInstance wide_bf16_n160_atomic() {
    return wide_instance<WideShape<WideBf16, 64, 16, 160, WideCombines::atomic>>("wide_n160");
}
}  // namespace tokamak::moe::cuda
