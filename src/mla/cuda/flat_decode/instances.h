// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace tokamak::mla::cuda::flat_decode {

/// What the host must know about a compiled kernel.
struct FlatKernel {
    const void* function = nullptr;
    int threads = 0;
    int shared_bytes = 0;
};

/// For rows of 512 or 576 elements, all fp8 or all bf16, at addresses that are multiples of 16; 16, 24 or 32 heads.
/// `rows`: of a share at most, 64 or 128; of 16 heads and fp8 rows of 576 also 256. Others: no function.
FlatKernel flat_512_fp8(int heads, int rows);
FlatKernel flat_576_fp8(int heads, int rows);
FlatKernel flat_512_bf16(int heads, int rows);
FlatKernel flat_576_bf16(int heads, int rows);

}  // namespace tokamak::mla::cuda::flat_decode
