// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "mla/cuda/sparse_decode/params.h"

namespace tokamak::mla::cuda::sparse_decode {

/// What the host must know about a compiled kernel.
struct Kernel {
    const void* function = nullptr;
    int heads = 0;  ///< per block
    int threads = 0;
    int weight_buffers = 0;
    int raw_bytes = 0;  ///< of fp8 rows in flight
    int raw_scale_bytes = 0;
    std::size_t control_bytes = 0;
    std::size_t split_bytes = 0;  ///< merged statistics, per split
};

/// For rows of 512 or 576 elements; `heads` is 8, 16, 32 or 64. A pair, two blocks of a cluster that
/// share the conversion of rows, has 64 heads in each. The fp8 kernels take aligned fp8 rows only, the bf16
/// kernels any rows.
Kernel kernel_512_fp8(int heads, bool pair);
Kernel kernel_576_fp8(int heads);
Kernel kernel_512_bf16(int heads);
Kernel kernel_576_bf16(int heads);

}  // namespace tokamak::mla::cuda::sparse_decode
