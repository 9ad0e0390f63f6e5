// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "mla/cuda/paired_decode/instances.h"
#include "mla/cuda/paired_decode/kernel.cuh"

namespace tokamak::mla::cuda::paired_decode {

template <int Dim, bool Split>
PairedKernel describe() {
    return {reinterpret_cast<const void*>(&paired_decode<Dim, Split>), kPairedThreads, kPairedBytes<Dim>};
}

}  // namespace tokamak::mla::cuda::paired_decode
