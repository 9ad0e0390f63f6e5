// SPDX-License-Identifier: Apache-2.0
// The launch that routes tokens from their logits before a kernel that takes ids.
#pragma once

#include <cuda_runtime_api.h>

#include "moe/cuda/fused_moe.h"

namespace tokamak::moe::cuda {

struct RouteRowsArgs {
    DecodeRoute route;
    std::int64_t tokens = 0;
    const std::int32_t* num_tokens = nullptr;
    int experts = 0;
    int top_k = 0;
    std::int32_t* ids = nullptr;  ///< [tokens, top_k]
    float* weights = nullptr;     ///< the same
    int room = 0;                 ///< floats of a warp, where it routes in shared memory
};

/// How it is launched; a kernel behind it that is launched programmatically may start at once.
struct RouteRowsShape {
    bool in_registers = false;
    unsigned ctas = 0;
    unsigned threads = 0;
    unsigned shared_bytes = 0;  ///< dynamic
};
/// `row_warps`: of a CTA where tokens are routed in registers.
RouteRowsShape route_rows_shape(const RouteRowsArgs& args, int max_ctas, int row_warps);

/// The kernels, with their attributes set.
cudaError_t load_route_rows(RouteKernels& kernels);

}  // namespace tokamak::moe::cuda
