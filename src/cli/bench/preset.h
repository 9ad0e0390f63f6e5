// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "cli/bench/report.h"

namespace tokamak::cli::bench {

/// The main job: an MoE layer of gpt-oss, Kimi-K2 and DeepSeek-V3 each, made as a checkpoint file with fewer experts
/// and loaded from it, and sparse MLA decode in the shapes of V3.2 and V4.
void run_decode_preset(Report& report);

}  // namespace tokamak::cli::bench
