// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "tokamak/moe/sum_reduce.h"

namespace tokamak::moe::cpu {

/// Reduces the first `tokens` rows. Arguments are checked. Acc: float, or double for the oracle.
template <class Acc>
void sum_reduce(const SumReduceProblem& problem, const SumReduceArgs& args, std::int64_t tokens, int threads);

}  // namespace tokamak::moe::cpu
