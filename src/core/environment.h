// SPDX-License-Identifier: Apache-2.0
// Environment variables. Read by make_plan, never by run.
#pragma once

#include <optional>
#include <string>

namespace tokamak::environment {

inline constexpr const char* kMoeConfig = "TOKAMAK_MOE_CONFIG";               ///< JSON override of fused_moe
inline constexpr const char* kSparseMlaConfig = "TOKAMAK_SPARSE_MLA_CONFIG";  ///< JSON override of sparse_attention
inline constexpr const char* kConfigStore = "TOKAMAK_CONFIG_STORE";           ///< path of the user's tuned store

/// Value of a variable; an empty value counts as unset.
std::optional<std::string> get(const char* name);

}  // namespace tokamak::environment
