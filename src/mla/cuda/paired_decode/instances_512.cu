// SPDX-License-Identifier: Apache-2.0
#include "mla/cuda/paired_decode/instance.cuh"

namespace tokamak::mla::cuda::paired_decode {
PairedKernel paired_512(bool split) { return split ? describe<512, true>() : describe<512, false>(); }
}  // namespace tokamak::mla::cuda::paired_decode
