// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "moe/cpu/elements.h"
#include "tokamak/tensor.h"

namespace tokamak::moe::cpu {

/// Where the expert of a global id lives. Reads nothing outside the map, whatever the id.
class ExpertLookup {
  public:
    static constexpr std::int32_t kInvalid = -2;    ///< the id names no expert
    static constexpr std::int32_t kElsewhere = -1;  ///< an expert of another rank

    /// Without a map, local row r is expert first + r.
    ExpertLookup(const Tensor& map, std::int64_t first, std::int64_t num_experts, std::int64_t local_experts) noexcept
        : map_(map.present ? map.as<std::int32_t>() : nullptr),
          first_(first),
          num_experts_(num_experts),
          local_experts_(local_experts) {}

    [[nodiscard]] std::int32_t local_row(std::int64_t id) const noexcept {
        if (id < 0 || id >= num_experts_) return kInvalid;
        const std::int64_t row = map_ != nullptr ? map_[id] : id - first_;
        return row < 0 || row >= local_experts_ ? kElsewhere : static_cast<std::int32_t>(row);
    }

  private:
    const std::int32_t* map_;
    std::int64_t first_;
    std::int64_t num_experts_;
    std::int64_t local_experts_;
};

}  // namespace tokamak::moe::cpu
