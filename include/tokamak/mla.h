// SPDX-License-Identifier: Apache-2.0
// Sparse MLA operators. What their calls have in common: plan.h; what they compute: docs/operators/mla.md.
#pragma once

#include "tokamak/mla/indexer.h"           // IWYU pragma: export
#include "tokamak/mla/merge_state.h"       // IWYU pragma: export
#include "tokamak/mla/paged_gather.h"      // IWYU pragma: export
#include "tokamak/mla/sparse_attention.h"  // IWYU pragma: export
#include "tokamak/mla/write_kv.h"          // IWYU pragma: export
