// SPDX-License-Identifier: Apache-2.0
#include "mla/cuda/sparse_decode/turns_instance.cuh"

namespace tokamak::mla::cuda::sparse_decode {

Kernel kernel_turns(int dim, bool fp8) {
    if (dim == 576) return fp8 ? describe_turns<576, true>() : describe_turns<576, false>();
    return fp8 ? describe_turns<512, true>() : describe_turns<512, false>();
}

}  // namespace tokamak::mla::cuda::sparse_decode
