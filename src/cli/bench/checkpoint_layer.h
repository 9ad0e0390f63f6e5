// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "cli/bench/moe_layer.h"

namespace tokamak::cli::bench {

/// What a checkpoint's experts do not say. Anything not given follows from the checkpoint's layout.
struct LayerOptions {
    std::optional<std::string> activation = std::nullopt;  ///< swiglu, swiglu_clamped, gpt_oss
    std::optional<double> limit = std::nullopt;
    std::optional<std::string> routing = std::nullopt;  ///< softmax, sigmoid_grouped
    std::optional<int> top_k = std::nullopt;
    std::optional<bool> renormalize = std::nullopt;
    std::optional<int> groups = std::nullopt;
    std::optional<int> top_groups = std::nullopt;
    std::optional<double> scaling = std::nullopt;
    std::int64_t experts = -1;  ///< only the first ones; -1: all
};

/// Loads and packs layer `layer` of a file, or its first experts. Throws `parse` if no layout is recognised.
MoeLayer load_layer(const std::string& path, int layer, const LayerOptions& options);

}  // namespace tokamak::cli::bench
