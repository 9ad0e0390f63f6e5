// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "mla/cuda/flat_decode/instances.h"
#include "mla/cuda/flat_decode/kernel.cuh"

namespace tokamak::mla::cuda::flat_decode {

template <int Dim, int N, bool Half, int Blocks>
FlatKernel describe() {
    return {reinterpret_cast<const void*>(&flat_decode<Dim, N, Half, Blocks>), kFlatThreads,
            kFlatBytes<Dim, N, Half, Blocks>};
}

/// Of fp8 rows, those that the direct kernel does not have.
template <int Dim, bool Half>
FlatKernel kernel_of(int heads, int rows) {
    if constexpr (!Half)
        if (heads == 16 && rows == 128) return describe<Dim, 16, Half, 2>();
    if constexpr (!Half || Dim == 512)
        if (heads == 24 && rows == 128) return describe<Dim, 24, Half, 2>();
    switch (1000 * rows + heads) {
        case 64016: return describe<Dim, 16, Half, 1>();
        case 64024: return describe<Dim, 24, Half, 1>();
        case 64032: return describe<Dim, 32, Half, 1>();
        case 128032: return describe<Dim, 32, Half, 2>();
        default: return {};
    }
}

}  // namespace tokamak::mla::cuda::flat_decode
