// SPDX-License-Identifier: Apache-2.0
#include "moe/cuda/wide/kernel.cuh"
#include "moe/cuda/wide/weights.cuh"

namespace tokamak::moe::cuda {
WideInstance wide_nvfp4_n48() { return wide_instance<WideShape<WideNvfp4, 3, 2, 16, 16, 48>>("wide_r384_n48"); }
}  // namespace tokamak::moe::cuda
