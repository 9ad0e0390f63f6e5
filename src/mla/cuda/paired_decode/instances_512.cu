// SPDX-License-Identifier: Apache-2.0
#include "mla/cuda/paired_decode/instance.cuh"

namespace tokamak::mla::cuda::paired_decode {
PairedKernel paired_512(int heads, bool split) { return kernel_of<512>(heads, split); }
}  // namespace tokamak::mla::cuda::paired_decode
