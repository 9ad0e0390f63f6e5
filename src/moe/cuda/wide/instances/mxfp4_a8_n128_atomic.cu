// SPDX-License-Identifier: Apache-2.0
#include "moe/cuda/wide/kernel.cuh"
#include "moe/cuda/wide/weights.cuh"

namespace tokamak::moe::cuda {
WideInstance wide_mxfp4_a8_n128_atomic() {
    return wide_instance<WideShape<WideConverted, 16, 16, 128, WideCombines::atomic>>("wide_n128");
}
}  // namespace tokamak::moe::cuda
