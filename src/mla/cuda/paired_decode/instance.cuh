// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "mla/cuda/paired_decode/instances.h"
#include "mla/cuda/paired_decode/kernel.cuh"

namespace tokamak::mla::cuda::paired_decode {

template <int Dim, Cluster C>
PairedKernel describe() {
    return {reinterpret_cast<const void*>(&paired_decode<Dim, C>), kPairedThreads, kPairedBytes<Dim>};
}

template <int Dim>
PairedKernel kernel_of(int heads, bool split) {
    if (heads == 2 * kHeads) return split ? PairedKernel{} : describe<Dim, Cluster::heads>();
    if (heads != kHeads) return {};
    return split ? describe<Dim, Cluster::splits>() : describe<Dim, Cluster::none>();
}

}  // namespace tokamak::mla::cuda::paired_decode
