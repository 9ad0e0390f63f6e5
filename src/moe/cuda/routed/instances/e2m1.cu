// SPDX-License-Identifier: Apache-2.0
// The routed GEMM for weights of e2m1 codes.
#include "moe/cuda/routed/kernel.cuh"
#include "moe/cuda/routed/weights_4bit.cuh"

namespace tokamak::moe::cuda::routed {

Instance mxfp4() { return instance<Weights4Bit<Mxfp4Scale, 32, 1>>(); }
Instance nvfp4() { return instance<Weights4Bit<Nvfp4Scale, 16, 1>>(); }

}  // namespace tokamak::moe::cuda::routed
