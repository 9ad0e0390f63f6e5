// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace tokamak::mla::cuda::paired_decode {

/// Of a grid, x are the splits, y the head groups, z the tokens. If there are more tokens than that, y are pairs of
/// head groups, each of the next tokens.
inline constexpr int kMostGroups = 2;
inline constexpr int kMostTokens = 65535;

/// What the host must know about a compiled kernel: for 64 heads, all rows of a token or a share of them, and bf16 rows
/// of 512 or 576 elements at addresses that are multiples of 16.
struct PairedKernel {
    const void* function = nullptr;
    int threads = 0;
    int shared_bytes = 0;
};

/// `split`: for clusters.
PairedKernel paired_512(bool split);
PairedKernel paired_576(bool split);

}  // namespace tokamak::mla::cuda::paired_decode
