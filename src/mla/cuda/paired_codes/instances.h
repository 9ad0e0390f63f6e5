// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "mla/cuda/paired_decode/instances.h"

namespace tokamak::mla::cuda::paired_codes {

/// 64 heads, all rows of a token or half of them, and fp8 rows of 512 at addresses that are multiples of 16. `split`:
/// for clusters of two.
paired_decode::PairedKernel codes_512(bool split);
/// 128 heads and all rows of a token, by clusters of two that share the conversion of rows.
paired_decode::PairedKernel shared_codes_512();

}  // namespace tokamak::mla::cuda::paired_codes
