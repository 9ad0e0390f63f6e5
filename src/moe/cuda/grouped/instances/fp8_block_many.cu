// SPDX-License-Identifier: Apache-2.0
#include "moe/cuda/grouped/grouped_kernel.cuh"
#include "moe/cuda/grouped/weights_8bit.cuh"

namespace tokamak::moe::cuda {
std::vector<GroupedInstance> grouped_fp8_block_many() {
    return {grouped_instance<GroupedShape<Fp8QuantizedWeights, 2, 2, 96>>("grouped_r256_n96")};
}
}  // namespace tokamak::moe::cuda
