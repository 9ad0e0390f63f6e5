// SPDX-License-Identifier: Apache-2.0
#include "mla/cuda/sparse_decode/instance.cuh"

namespace tokamak::mla::cuda::sparse_decode {
Kernel kernel_576_fp8(int heads) { return kernel_of<576, true>(heads); }
}  // namespace tokamak::mla::cuda::sparse_decode
