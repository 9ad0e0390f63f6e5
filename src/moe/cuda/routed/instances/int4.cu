// SPDX-License-Identifier: Apache-2.0
// The routed GEMM for int4 weights with bf16 scales.
#include "moe/cuda/routed/kernel.cuh"
#include "moe/cuda/routed/weights_4bit.cuh"

namespace tokamak::moe::cuda::routed {

Instance int4_g32() { return instance<Weights4Bit<Int4Scale, 32, 2>>(); }
Instance int4_g64() { return instance<Weights4Bit<Int4Scale, 64, 2>>(); }
Instance int4_g128() { return instance<Weights4Bit<Int4Scale, 128, 2>>(); }

}  // namespace tokamak::moe::cuda::routed
