// SPDX-License-Identifier: Apache-2.0
#include "mla/cuda/sparse_decode/instances.h"
#include "mla/cuda/sparse_turns/kernel.cuh"

namespace tokamak::mla::cuda::sparse_decode {
namespace {

template <int Dim>
Kernel describe_turns() {
    return {reinterpret_cast<const void*>(&sparse_turns<Dim>), kTurnHeads, kTurnThreads, 1, 0, 0,
            sizeof(TurnControl), 0};
}

}  // namespace

Kernel kernel_turns(int dim) { return dim == 576 ? describe_turns<576>() : describe_turns<512>(); }

}  // namespace tokamak::mla::cuda::sparse_decode
