// SPDX-License-Identifier: Apache-2.0
#include "moe/cuda/wide/kernel.cuh"
#include "moe/cuda/wide/weights.cuh"

namespace tokamak::moe::cuda {
WideInstance wide_mxfp4_n32() { return wide_instance<WideShape<Wide4Bit<Mxfp4Weights>, 4, 1, 16, 16, 32>>("wide_n32"); }
}  // namespace tokamak::moe::cuda
