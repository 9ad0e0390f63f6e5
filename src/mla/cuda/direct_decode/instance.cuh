// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "mla/cuda/direct_decode/instances.h"
#include "mla/cuda/direct_decode/kernel.cuh"

namespace tokamak::mla::cuda::direct_decode {

template <int Dim, int N, int Groups>
DirectKernel describe() {
    return {reinterpret_cast<const void*>(&direct_decode<Dim, N, Groups>), Shape<Dim, N, Groups>::kThreads,
            kDirectBytes<Dim, N, Groups>};
}

template <int Dim>
DirectKernel kernel_of(int heads) {
    switch (heads) {
        case 16: return describe<Dim, 16, 2>();
        default: return {};
    }
}

}  // namespace tokamak::mla::cuda::direct_decode
