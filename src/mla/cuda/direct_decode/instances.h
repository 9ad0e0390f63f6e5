// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace tokamak::mla::cuda::direct_decode {

/// What the host must know about a compiled kernel.
struct DirectKernel {
    const void* function = nullptr;
    int threads = 0;
    int shared_bytes = 0;
};

/// For fp8 rows of 512 or 576 elements at addresses that are multiples of 16. Others: no function.
DirectKernel direct_512(int heads);
DirectKernel direct_576(int heads);

}  // namespace tokamak::mla::cuda::direct_decode
