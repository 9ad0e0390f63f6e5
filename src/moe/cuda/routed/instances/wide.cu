// SPDX-License-Identifier: Apache-2.0
// The routed GEMM for 8- and 16-bit weights.
#include "moe/cuda/routed/kernel.cuh"
#include "moe/cuda/routed/weights_wide.cuh"

namespace tokamak::moe::cuda::routed {

Instance bf16() { return instance<WeightsBf16>(); }
Instance fp8_block() { return instance<WeightsFp8>(); }

}  // namespace tokamak::moe::cuda::routed
