// SPDX-License-Identifier: Apache-2.0
#include "mla/cuda/grid_decode/instances.h"
#include "mla/cuda/grid_decode/kernel.cuh"

namespace tokamak::mla::cuda::grid_decode {
wide_decode::FewKernel grid_512() {
    return {{reinterpret_cast<const void*>(&grid_decode_512), kDirectThreads, kGridBytes, 0}, kBoardBytes};
}
}  // namespace tokamak::mla::cuda::grid_decode
