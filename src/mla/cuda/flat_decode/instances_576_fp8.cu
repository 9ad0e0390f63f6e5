// SPDX-License-Identifier: Apache-2.0
#include "mla/cuda/flat_decode/direct_kernel.cuh"
#include "mla/cuda/flat_decode/instance.cuh"

namespace tokamak::mla::cuda::flat_decode {
FlatKernel flat_576_fp8(int heads, int rows) {
    if (heads == 16 && rows == 128) return direct::describe_direct<576, 128, 16>();
    if (heads == 16 && rows == 256) return direct::describe_direct<576, 256, 16>();
    if (heads == 24 && rows == 128) return direct::describe_direct<576, 128, 24>();
    return kernel_of<576, true>(heads, rows);
}
}  // namespace tokamak::mla::cuda::flat_decode
