// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "mla/cuda/flat_decode/instances.h"
#include "mla/cuda/flat_decode/kernel.cuh"

namespace tokamak::mla::cuda::flat_decode {

template <int Dim, int N, bool Half, int Blocks>
FlatKernel describe() {
    return {reinterpret_cast<const void*>(&flat_decode<Dim, N, Half, Blocks>), kFlatThreads,
            kFlatBytes<Dim, N, Blocks>};
}

template <int Dim, bool Half>
FlatKernel kernel_of(int heads, int rows) {
    switch (heads) {
        case 16: return rows == 64 ? describe<Dim, 16, Half, 1>() : describe<Dim, 16, Half, 2>();
        case 24: return rows == 64 ? describe<Dim, 24, Half, 1>() : describe<Dim, 24, Half, 2>();
        default: return rows == 64 ? describe<Dim, 32, Half, 1>() : describe<Dim, 32, Half, 2>();
    }
}

}  // namespace tokamak::mla::cuda::flat_decode
