// SPDX-License-Identifier: Apache-2.0
// The launch that routes tokens from their logits before a kernel that takes ids.
#pragma once

#include <cuda_runtime_api.h>

#include "moe/cuda/decode_args.h"

namespace tokamak::moe::cuda {

struct RouteRowsArgs {
    DecodeRoute route;
    std::int64_t tokens = 0;
    const std::int32_t* num_tokens = nullptr;
    int experts = 0;
    int top_k = 0;
    std::int32_t* ids = nullptr;  ///< [tokens, top_k]
    float* weights = nullptr;     ///< the same
};

cudaError_t prepare_route_rows();
/// A kernel behind it that is launched programmatically may start at once.
cudaError_t launch_route_rows(const RouteRowsArgs& args, int max_ctas, cudaStream_t stream);

}  // namespace tokamak::moe::cuda
