// SPDX-License-Identifier: Apache-2.0
#include "mla/cuda/direct_decode/instance.cuh"

namespace tokamak::mla::cuda::direct_decode {
DirectKernel direct_512(int heads) { return kernel_of<512>(heads); }
}  // namespace tokamak::mla::cuda::direct_decode
