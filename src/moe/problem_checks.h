// SPDX-License-Identifier: Apache-2.0
// Checks of problems and options that the MoE operators share. Each throws `invalid_argument` with operator, argument,
// expectation and value.
#pragma once

#include <cstdint>
#include <initializer_list>

#include "tokamak/plan.h"

namespace tokamak::moe {

inline constexpr int kMaxExperts = 4096;
/// The most experts per token of the operators that multiply; `route` alone goes up to the number of experts.
inline constexpr int kMaxTopK = 64;

/// max_tokens >= 0.
void check_max_tokens(const char* op, std::int64_t max_tokens);

/// The product of sizes, `what` in words, must stay below 2^63. Sizes are not negative.
void check_product(const char* op, const char* what, std::initializer_list<std::int64_t> sizes);

void check_finite(const char* op, const char* name, float value);

/// For operators whose workspace cannot be traded for more launches.
void check_workspace_limit(const char* op, const PlanOptions& options, WorkspaceSize needed);

/// Throws `unsupported` unless the operator has a backend for the device: where a CUDA backend is added, its operator
/// stops calling this for CUDA devices.
void require_cpu(const char* op, Device device);

}  // namespace tokamak::moe
