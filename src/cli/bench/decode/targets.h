// SPDX-License-Identifier: Apache-2.0
// What decode calls owe: goals of whole MoE layers and of sparse MLA on one H200, beside the best public figure known.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

namespace tokamak::cli::bench {

/// Microseconds in graph mode with a cold L2, uniform routing.
struct Target {
    std::optional<double> best_public;
    const char* who = "";
    double must = 0;
    double aim = 0;
};

/// Nothing where no goal was set.
std::optional<Target> moe_target(std::string_view shape, std::string_view format, std::int64_t tokens);
/// Of many tokens.
std::optional<Target> prefill_target(std::string_view shape, std::string_view format, std::int64_t tokens);
std::optional<Target> mla_target(std::string_view shape, std::string_view format, std::int64_t tokens);

/// Microseconds that a whole layer from router logits may take more than from ids.
std::optional<double> from_logits_target(std::string_view shape, std::string_view format, std::int64_t tokens);

/// What `run()` may cost the host: 2 us and 2.5 us per launch.
constexpr double host_target(double launches) { return 2.0 + 2.5 * launches; }

}  // namespace tokamak::cli::bench
