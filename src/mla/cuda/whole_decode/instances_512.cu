// SPDX-License-Identifier: Apache-2.0
#include "mla/cuda/whole_decode/kernel.cuh"

namespace tokamak::mla::cuda::whole_decode {
wide_decode::FewKernel whole_512() {
    return {{reinterpret_cast<const void*>(&whole_decode_512), kWholeThreads, WholeLayout::kBytes, 0},
            wide_decode::kPublishedBytes};
}
}  // namespace tokamak::mla::cuda::whole_decode
