// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace tokamak::mla::cuda::wide_decode {

/// What the host must know about a compiled kernel.
struct WideKernel {
    const void* function = nullptr;
    int threads = 0;
    int shared_bytes = 0;
    int weights = 0;  ///< where softmax weights are in shared memory
};

/// A kernel whose blocks run all at once, and exchange by way of the workspace.
struct FewKernel {
    WideKernel kernel;
    int published_bytes = 0;  ///< of a block, in the workspace
};

inline constexpr int kMostShare = 256;  ///< columns of a split of few_576

/// What the launch of such a kernel is told beside its parameters, which have its first token in first.of_splits.
struct Published {
    std::uint8_t* at;
};

/// For fp8 rows of 512 or 576 elements at addresses that are multiples of 16; 64 heads a block.
WideKernel wide_512();
WideKernel wide_576();
/// For fp8 rows of 576 elements; a split has `share` columns, kMostShare at most.
FewKernel few_576(std::int64_t share);

}  // namespace tokamak::mla::cuda::wide_decode
