// SPDX-License-Identifier: Apache-2.0
#include "mla/cuda/flat_decode/direct_kernel.cuh"
#include "mla/cuda/flat_decode/instance.cuh"

namespace tokamak::mla::cuda::flat_decode {
FlatKernel flat_576_fp8(int heads, int rows) {
    if (rows == direct::kRows && heads == 16) return direct::describe_direct<1>();
    return kernel_of<576, true>(heads, rows);
}
}  // namespace tokamak::mla::cuda::flat_decode
