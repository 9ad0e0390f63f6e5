// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "moe/cpu/project.h"

namespace tokamak::moe::cpu {

/// What becomes of token rows before the first GEMM.
struct InputRule {
    const Tensor& x;
    const Tensor& route_weights;  ///< present: a route's row is the token's times its weight
    DType act_dtype = DType::bf16;
    bool quantize = false;  ///< through e4m3, in place of the rounding to act_dtype
};

/// Loads the rows of a chunk into the scratch.
template <class Acc>
Rows<Acc> load_input_rows(const Chunk& chunk, const InputRule& rule);

}  // namespace tokamak::moe::cpu
