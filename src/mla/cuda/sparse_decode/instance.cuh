// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "mla/cuda/sparse_decode/instances.h"
#include "mla/cuda/sparse_decode/kernel.cuh"

namespace tokamak::mla::cuda::sparse_decode {

template <int Dim, int N, bool Half, bool Pair>
Kernel describe() {
    return {reinterpret_cast<const void*>(&sparse_decode<Dim, N, Half, Pair>),
            N,
            kThreads<N, Pair>,
            kWeightBuffers<N>,
            Half ? kRawBytes<N, Pair> : 0,
            Half ? kRawScaleBlocks<N> * kRowBlock * 16 : 0,
            sizeof(Control<N>),
            sizeof(SplitSums<N>)};
}

template <int Dim, bool Half>
Kernel kernel_of(int heads) {
    switch (heads) {
        case 8: return describe<Dim, 8, Half, false>();
        case 16: return describe<Dim, 16, Half, false>();
        case 32: return describe<Dim, 32, Half, false>();
        case 64: return describe<Dim, 64, Half, false>();
        default: return {};
    }
}

/// Of rows in fp8: two blocks of a cluster, each with its own heads, share the work of converting them.
template <int Dim>
Kernel pair_of(int heads) {
    return heads == 64 ? describe<Dim, 64, true, true>() : Kernel{};
}

}  // namespace tokamak::mla::cuda::sparse_decode
