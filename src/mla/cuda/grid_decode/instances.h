// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "mla/cuda/wide_decode/instances.h"

namespace tokamak::mla::cuda::grid_decode {

inline constexpr int kGridRows = 80;  ///< of a share, at most
inline constexpr int kGridSplits = 8;
inline constexpr int kGridHeads = 32;  ///< of a block: two halves of 16, rows of a product each

/// For fp8 rows of 512 elements at addresses that are multiples of 16.
wide_decode::FewKernel grid_512();

}  // namespace tokamak::mla::cuda::grid_decode
