// SPDX-License-Identifier: Apache-2.0
#include "mla/cuda/paired_decode/instance.cuh"

namespace tokamak::mla::cuda::paired_decode {
PairedKernel paired_576(int heads, bool split) { return kernel_of<576>(heads, split); }
}  // namespace tokamak::mla::cuda::paired_decode
