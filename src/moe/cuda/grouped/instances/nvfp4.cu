// SPDX-License-Identifier: Apache-2.0
#include "moe/cuda/grouped/grouped_kernel.cuh"
#include "moe/cuda/grouped/weights_4bit.cuh"

namespace tokamak::moe::cuda {
std::vector<GroupedInstance> grouped_nvfp4() {
    return {grouped_instance<GroupedShape<Nvfp4Weights, 2, 2, 48>>("grouped_r256_n48"),
            grouped_instance<GroupedShape<Nvfp4Weights, 3, 2, 32>>("grouped_r384_n32")};
}
}  // namespace tokamak::moe::cuda
