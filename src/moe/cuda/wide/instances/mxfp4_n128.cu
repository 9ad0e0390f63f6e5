// SPDX-License-Identifier: Apache-2.0
#include "moe/cuda/wide/kernel.cuh"
#include "moe/cuda/wide/weights.cuh"

namespace tokamak::moe::cuda {
WideInstance wide_mxfp4_n128() { return wide_instance<WideShape<Wide4Bit<Mxfp4Weights>, 64, 32, 128>>("wide_n128"); }
}  // namespace tokamak::moe::cuda
