// SPDX-License-Identifier: Apache-2.0
// What the host hands to the kernel that names the experts of grouped rows.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace tokamak::moe::cuda {

struct ExpertRowsArgs {
    const std::int32_t* expert_rows = nullptr;  ///< [experts]; out of [0, rows]: clamped
    std::int32_t* ids = nullptr;                ///< [experts * rows]: the expert of a live row, else -1
    int experts = 0;
    std::int64_t rows = 0;  ///< of an expert, live or not
};

/// Loads the kernel for the current device.
cudaError_t prepare_name_experts();
/// Launches it; may be captured. `max_ctas`: 0 is no limit.
cudaError_t launch_name_experts(const ExpertRowsArgs& args, int max_ctas, cudaStream_t stream);

}  // namespace tokamak::moe::cuda
