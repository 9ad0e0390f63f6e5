// SPDX-License-Identifier: Apache-2.0
// Mixture-of-experts operators. What their calls have in common: plan.h; what they compute: docs/operators/moe.md.
#pragma once

#include "tokamak/moe/align.h"        // IWYU pragma: export
#include "tokamak/moe/fused_moe.h"    // IWYU pragma: export
#include "tokamak/moe/route.h"        // IWYU pragma: export
#include "tokamak/moe/routed_gemm.h"  // IWYU pragma: export
#include "tokamak/moe/sum_reduce.h"   // IWYU pragma: export
