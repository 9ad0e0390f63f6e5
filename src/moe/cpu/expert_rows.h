// SPDX-License-Identifier: Apache-2.0
// Rows that come grouped by expert, told to the operators by ids.
#pragma once

#include <algorithm>
#include <cstdint>

#include "tokamak/tensor.h"

namespace tokamak::moe::cpu {

/// ids [experts * R, 1]: the first expert_rows[e] of the R rows of expert e name it, the others nothing.
inline void name_experts(const Tensor& expert_rows, const Tensor& ids) noexcept {
    const std::int64_t experts = expert_rows.size(0);
    const std::int64_t rows = ids.size(0) / experts;
    auto* id = static_cast<std::int32_t*>(ids.data);
    for (std::int64_t expert = 0; expert < experts; ++expert, id += rows) {
        const std::int64_t live = std::clamp<std::int64_t>(expert_rows.as<std::int32_t>()[expert], 0, rows);
        std::fill(id, id + live, static_cast<std::int32_t>(expert));
        std::fill(id + live, id + rows, -1);
    }
}

}  // namespace tokamak::moe::cpu
