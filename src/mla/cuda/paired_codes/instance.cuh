// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "mla/cuda/paired_codes/instances.h"
#include "mla/cuda/paired_codes/kernel.cuh"

namespace tokamak::mla::cuda::paired_codes {

template <bool Split, bool Shared>
paired_decode::PairedKernel describe() {
    return {reinterpret_cast<const void*>(&paired_codes<Split, Shared>), kThreads, kCodesBytes};
}

}  // namespace tokamak::mla::cuda::paired_codes
