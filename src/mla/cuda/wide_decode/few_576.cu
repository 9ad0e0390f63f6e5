// SPDX-License-Identifier: Apache-2.0
#include "mla/cuda/wide_decode/few_kernel.cuh"

namespace tokamak::mla::cuda::wide_decode {
FewKernel few_576(std::int64_t share) {
    const void* const function = share > 2 * kRowBlock ? reinterpret_cast<const void*>(&few_decode<2>)
                                                       : reinterpret_cast<const void*>(&few_decode<1>);
    return {{function, kFewThreads, FewLayout::kBytes, FewLayout::kWeights}, kPublishedBytes};
}
}  // namespace tokamak::mla::cuda::wide_decode
