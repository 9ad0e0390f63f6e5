// SPDX-License-Identifier: Apache-2.0
#include "mla/cuda/flat_decode/instance.cuh"

namespace tokamak::mla::cuda::flat_decode {
FlatKernel flat_512_bf16(int heads, int rows) { return kernel_of<512, false>(heads, rows); }
}  // namespace tokamak::mla::cuda::flat_decode
