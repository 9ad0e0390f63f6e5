// SPDX-License-Identifier: Apache-2.0
#include "mla/cuda/paired_decode/instances.h"
#include "mla/cuda/paired_decode/kernel.cuh"

namespace tokamak::mla::cuda::paired_decode {
PairedKernel paired_576() {
    return {reinterpret_cast<const void*>(&paired_decode<576>), kPairedThreads, kPairedBytes<576>};
}
}  // namespace tokamak::mla::cuda::paired_decode
