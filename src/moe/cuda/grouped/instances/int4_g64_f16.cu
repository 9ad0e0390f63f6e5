// SPDX-License-Identifier: Apache-2.0
#include "moe/cuda/grouped/grouped_kernel.cuh"
#include "moe/cuda/grouped/weights_4bit.cuh"

namespace tokamak::moe::cuda {
std::vector<GroupedInstance> grouped_int4_g64_f16() {
    return {grouped_instance<GroupedShape<Int4Weights<64, __half>, 3, 2>>("grouped_r384"),
            grouped_instance<GroupedShape<Int4Weights<64, __half>, 2, 2, 48, true>>("grouped_r256")};
}
}  // namespace tokamak::moe::cuda
