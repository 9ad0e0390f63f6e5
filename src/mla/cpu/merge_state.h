// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "tokamak/mla/merge_state.h"

namespace tokamak::mla::cpu {

/// Arguments have been checked. `oracle`: weights and sums in double.
void merge_state(const MergeStateProblem& problem, const MergeStateArgs& args, bool oracle);

}  // namespace tokamak::mla::cpu
