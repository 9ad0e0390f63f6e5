// SPDX-License-Identifier: Apache-2.0
#include "mla/cuda/paired_decode/instances.h"
#include "mla/cuda/paired_decode/kernel.cuh"

namespace tokamak::mla::cuda::paired_decode {
PairedKernel paired_512() {
    return {reinterpret_cast<const void*>(&paired_decode<512>), kPairedThreads, kPairedBytes<512>};
}
}  // namespace tokamak::mla::cuda::paired_decode
