// SPDX-License-Identifier: Apache-2.0
#include "mla/cuda/paired_decode/instance.cuh"

namespace tokamak::mla::cuda::paired_decode {
PairedKernel paired_576(bool split) { return split ? describe<576, true>() : describe<576, false>(); }
}  // namespace tokamak::mla::cuda::paired_decode
