// SPDX-License-Identifier: Apache-2.0
// The routed GEMM for int4 weights with f16 scales.
#include "moe/cuda/routed/kernel.cuh"
#include "moe/cuda/routed/weights_4bit.cuh"

namespace tokamak::moe::cuda::routed {

Instance int4_g32_f16() { return instance<Weights4Bit<Int4ScaleF16, 32, 2>>(); }
Instance int4_g64_f16() { return instance<Weights4Bit<Int4ScaleF16, 64, 2>>(); }
Instance int4_g128_f16() { return instance<Weights4Bit<Int4ScaleF16, 128, 2>>(); }

}  // namespace tokamak::moe::cuda::routed
