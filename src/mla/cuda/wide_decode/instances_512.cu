// SPDX-License-Identifier: Apache-2.0
#include "mla/cuda/wide_decode/instances.h"
#include "mla/cuda/wide_decode/kernel.cuh"

namespace tokamak::mla::cuda::wide_decode {
WideKernel wide_512() {
    return {reinterpret_cast<const void*>(&wide_decode<512>), kWideThreads, Layout<512>::kBytes, Layout<512>::kWeights};
}
}  // namespace tokamak::mla::cuda::wide_decode
