// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "mla/cuda/sparse_decode/instances.h"
#include "mla/cuda/sparse_decode/kernel.cuh"

namespace tokamak::mla::cuda::sparse_decode {

template <int Dim, int N, bool Half, bool Pair>
Kernel describe() {
    return {reinterpret_cast<const void*>(&sparse_decode<Dim, N, Half, Pair>),
            N,
            kThreads<N>,
            kWeightBuffers<N>,
            Half ? kRawBytes<N> : 0,
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

}  // namespace tokamak::mla::cuda::sparse_decode
