// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace tokamak::mla::cuda::wide_decode {

/// What the host must know about a compiled kernel.
struct WideKernel {
    const void* function = nullptr;
    int threads = 0;
    int shared_bytes = 0;
    int weights = 0;  ///< where softmax weights are in shared memory
};

/// For fp8 rows of 512 or 576 elements at addresses that are multiples of 16; 64 heads a block.
WideKernel wide_512();
WideKernel wide_576();

}  // namespace tokamak::mla::cuda::wide_decode
