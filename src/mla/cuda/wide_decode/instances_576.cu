// SPDX-License-Identifier: Apache-2.0
#include <cstdlib>
#include "mla/cuda/wide_decode/instances.h"
#include "mla/cuda/wide_decode/kernel.cuh"

namespace tokamak::mla::cuda::wide_decode {
WideKernel wide_576() {
    return {getenv("D64") ? reinterpret_cast<const void*>(&wide_decode<576, true>) : reinterpret_cast<const void*>(&wide_decode<576, false>), kWideThreads, Layout<576>::kBytes,
            Layout<576>::kWeights};
}
}  // namespace tokamak::mla::cuda::wide_decode
