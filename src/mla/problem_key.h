// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "tokamak/mla.h"

namespace tokamak::mla {

/// Names the problem in configuration stores: every field on which the choice of a variant may depend. Left out are
/// max_tokens (a store has rows of its own for token counts) and the rows of the pools (memory of the deployment).
std::string problem_key(const SparseAttentionProblem& problem);

}  // namespace tokamak::mla
