// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "mla/cuda/sparse_decode/instances.h"
#include "mla/cuda/sparse_decode/kernel.cuh"

namespace tokamak::mla::cuda::sparse_decode {

template <int Dim, int N>
Kernel describe() {
    return {reinterpret_cast<const void*>(&sparse_decode<Dim, N>),
            N,
            kThreads,
            kRawBlocks<N>,
            sizeof(Control<N>),
            sizeof(SplitSums<N>)};
}

template <int Dim>
Kernel kernel_of(int heads) {
    switch (heads) {
        case 8: return describe<Dim, 8>();
        case 16: return describe<Dim, 16>();
        case 32: return describe<Dim, 32>();
        case 64: return describe<Dim, 64>();
        default: return {};
    }
}

}  // namespace tokamak::mla::cuda::sparse_decode
