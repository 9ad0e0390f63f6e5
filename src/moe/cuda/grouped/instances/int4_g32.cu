// SPDX-License-Identifier: Apache-2.0
#include "moe/cuda/grouped/grouped_kernel.cuh"
#include "moe/cuda/grouped/weights_4bit.cuh"

namespace tokamak::moe::cuda {
std::vector<GroupedInstance> grouped_int4_g32() {
    return {grouped_instance<GroupedShape<Int4Weights<32>, 2, 2, 64>>("grouped_r256_n64"),
            grouped_instance<GroupedShape<Int4Weights<32>, 2, 2, 48>>("grouped_r256_n48"),
            grouped_instance<GroupedShape<Int4Weights<32>, 2, 2, 32>>("grouped_r256_n32"),
            grouped_instance<GroupedShape<Int4Weights<32>, 3, 2, 32>>("grouped_r384_n32")};
}
}  // namespace tokamak::moe::cuda
