// SPDX-License-Identifier: Apache-2.0
#include "moe/cuda/wide/kernel.cuh"
#include "moe/cuda/wide/weights.cuh"

namespace tokamak::moe::cuda {
WideInstance wide_int4_g128_f16_n128() {
    return wide_instance<WideShape<Wide4Bit<Int4Weights<128, __half>>, 64, 32, 128>>("wide_n128");
}
}  // namespace tokamak::moe::cuda
