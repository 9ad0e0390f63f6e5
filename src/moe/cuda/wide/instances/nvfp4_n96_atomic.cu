// SPDX-License-Identifier: Apache-2.0
#include "moe/cuda/wide/kernel.cuh"
#include "moe/cuda/wide/weights.cuh"

namespace tokamak::moe::cuda {
WideInstance wide_nvfp4_n96_atomic() {
    return wide_instance<WideShape<WideNvfp4, 64, 16, 96, WideCombines::atomic>>("wide_n96");
}
}  // namespace tokamak::moe::cuda
