// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "mla/cuda/sparse_decode/instances.h"
#include "mla/cuda/sparse_decode/turns_kernel.cuh"

namespace tokamak::mla::cuda::sparse_decode {

template <bool Half>
Kernel describe_turns() {
    return {reinterpret_cast<const void*>(&sparse_decode_turns<Half>),
            kTurnHeads,
            kTurnThreads,
            1,
            Half ? TurnControl::kProducers * kStepsAhead * TurnControl::kUnits * kUnitBytes : 0,
            Half ? TurnControl::kScaleBlocks * kRowBlock * 16 : 0,
            sizeof(TurnControl),
            sizeof(SplitSums<kTurnHeads>)};
}

}  // namespace tokamak::mla::cuda::sparse_decode
