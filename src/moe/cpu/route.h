// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "tokamak/moe/route.h"

namespace tokamak::moe::cpu {

/// Routes the first `tokens` rows. Arguments are checked. Acc: float, or double for the oracle.
template <class Acc>
void route(const RouteProblem& problem, const RouteArgs& args, std::int64_t tokens, int threads);

}  // namespace tokamak::moe::cpu
