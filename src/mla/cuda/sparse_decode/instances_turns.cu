// SPDX-License-Identifier: Apache-2.0
#include "mla/cuda/sparse_decode/turns_instance.cuh"

namespace tokamak::mla::cuda::sparse_decode {
Kernel kernel_turns(bool fp8) { return fp8 ? describe_turns<true>() : describe_turns<false>(); }
}  // namespace tokamak::mla::cuda::sparse_decode
