// SPDX-License-Identifier: Apache-2.0
#include "mla/cuda/wide_decode/few_kernel.cuh"

namespace tokamak::mla::cuda::wide_decode {
FewKernel few_576() {
    return {{reinterpret_cast<const void*>(&few_decode), kFewThreads, FewLayout::kBytes, FewLayout::kWeights},
            kPublishedBytes};
}
}  // namespace tokamak::mla::cuda::wide_decode
