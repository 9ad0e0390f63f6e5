// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "tokamak/moe.h"

namespace tokamak::moe {

/// Names the problem in configuration stores: every field on which the choice of a variant may depend. Left out are
/// max_tokens (a store has rows of its own for token counts) and the numbers of the activation (they cost no time).
std::string problem_key(const FusedMoeProblem& problem);

}  // namespace tokamak::moe
