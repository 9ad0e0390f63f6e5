// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "mla/cuda/sparse_decode/params.h"

namespace tokamak::mla::cuda::sparse_decode {

/// What the host must know about a compiled kernel.
struct Kernel {
    const void* function = nullptr;
    int heads = 0;  ///< per block
    int threads = 0;
    int raw_blocks = 0;  ///< of fp8 rows in flight
    std::size_t control_bytes = 0;
    std::size_t split_bytes = 0;  ///< merged statistics, per split
};

/// For rows of 512 or 576 elements; `heads` is 8, 16, 32 or 64.
Kernel kernel_512(int heads);
Kernel kernel_576(int heads);

}  // namespace tokamak::mla::cuda::sparse_decode
