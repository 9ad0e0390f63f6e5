// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace tokamak::mla::cuda::paired_decode {

/// What the host must know about a compiled kernel.
struct PairedKernel {
    const void* function = nullptr;
    int threads = 0;
    int shared_bytes = 0;
};

/// For bf16 rows of 512 or 576 elements at addresses that are multiples of 16. `heads`: 64, or 128 for clusters of two
/// blocks with 64 each, which share their rows; `split`: whether several blocks share a token's rows, with 64 heads only.
/// Others: no function.
PairedKernel paired_512(int heads, bool split);
PairedKernel paired_576(int heads, bool split);

}  // namespace tokamak::mla::cuda::paired_decode
