// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "mla/cuda/wide_decode/instances.h"

namespace tokamak::mla::cuda::whole_decode {

inline constexpr int kWholeRows = 144;  ///< of a share, at most
inline constexpr int kWholeSplits = 8;

/// For fp8 rows of 512 elements at addresses that are multiples of 16; 64 heads a block.
wide_decode::FewKernel whole_512();

}  // namespace tokamak::mla::cuda::whole_decode
