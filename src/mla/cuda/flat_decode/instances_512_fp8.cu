// SPDX-License-Identifier: Apache-2.0
#include "mla/cuda/flat_decode/direct_kernel.cuh"
#include "mla/cuda/flat_decode/instance.cuh"

namespace tokamak::mla::cuda::flat_decode {
FlatKernel flat_512_fp8(int heads, int rows) {
    if (heads == 16 && rows == 128) return direct::describe_direct<512, 128, 16>();
    return kernel_of<512, true>(heads, rows);
}
}  // namespace tokamak::mla::cuda::flat_decode
