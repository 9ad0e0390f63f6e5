// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>

#include "tokamak/moe/align.h"

namespace tokamak::moe::cpu {

/// Sorts the routes of the first `tokens` tokens. Arguments are checked. `ends` has an entry for each expert, one more
/// with NonLocal::ghost. Serial: a few operations per route.
void align(const AlignProblem& problem, const AlignArgs& args, std::int64_t tokens, std::span<std::int64_t> ends);

}  // namespace tokamak::moe::cpu
