// SPDX-License-Identifier: Apache-2.0
#include "mla/cuda/sparse_decode/instance.cuh"

namespace tokamak::mla::cuda::sparse_decode {
Kernel kernel_512_fp8(int heads, bool pair) {
    return pair && heads == 64 ? describe<512, 64, true, true>() : kernel_of<512, true>(heads);
}
}  // namespace tokamak::mla::cuda::sparse_decode
