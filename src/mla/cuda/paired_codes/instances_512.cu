// SPDX-License-Identifier: Apache-2.0
#include "mla/cuda/paired_codes/instance.cuh"

namespace tokamak::mla::cuda::paired_codes {
paired_decode::PairedKernel codes_512(bool split) { return split ? describe<true, false>() : describe<false, false>(); }
paired_decode::PairedKernel shared_codes_512() { return describe<false, true>(); }
}  // namespace tokamak::mla::cuda::paired_codes
