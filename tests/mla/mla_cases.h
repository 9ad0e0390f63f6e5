// SPDX-License-Identifier: Apache-2.0
// The shapes and options that every backend of sparse_attention is tested on.
#pragma once

#include "mla/attention_data.h"
#include "mla/tolerance.h"

namespace tokamak::test {

/// One of each behaviour; small enough for the double reference.
std::vector<AttentionCase> attention_cases();

/// Runs a case with the caller's outputs and a poisoned workspace, and compares all three outputs with the reference.
/// Without `max_logits` it is not asked for, which is another kernel for some variants.
void check_attention(const AttentionCase& c, Device device, const PlanOptions& options, Accumulation accumulation,
                     bool max_logits = true);
void check_attention(AttentionData& data, Device device, const PlanOptions& options, Accumulation accumulation,
                     bool max_logits = true);

}  // namespace tokamak::test
