// SPDX-License-Identifier: Apache-2.0
#include "mla/cuda/wide_decode/instances.h"
#include "mla/cuda/wide_decode/kernel.cuh"

namespace tokamak::mla::cuda::wide_decode {
WideKernel wide_576() {
    return {reinterpret_cast<const void*>(&wide_decode<576>), kWideThreads, Layout<576>::kBytes, Layout<576>::kWeights};
}
}  // namespace tokamak::mla::cuda::wide_decode
