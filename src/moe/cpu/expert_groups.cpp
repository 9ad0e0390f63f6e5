// SPDX-License-Identifier: Apache-2.0
#include "moe/cpu/expert_groups.h"

#include <algorithm>

namespace tokamak::moe::cpu {

ExpertGroups group_by_expert(const Scratch& scratch, const Workspace& workspace, const ExpertLookup& lookup,
                             const Tensor& ids, std::int64_t first_token, std::int64_t tokens) {
    const std::int64_t top_k = ids.size(1);
    const auto slot_count = static_cast<std::size_t>(tokens * top_k);
    const std::span<std::int32_t> begins = scratch.group_begins.span_in(workspace);
    const std::span<std::int32_t> slots = scratch.group_slots.span_in(workspace).first(slot_count);
    const std::span<std::int32_t> positions = scratch.group_positions.span_in(workspace).first(slot_count);

    // `positions` first holds the expert of each slot; `begins` the counts, shifted up by one.
    std::fill(begins.begin(), begins.end(), 0);
    for (std::size_t slot = 0; slot < slot_count; ++slot) {
        const auto s = static_cast<std::int64_t>(slot);
        const std::int32_t expert = lookup.local_row(load_id(ids, first_token + s / top_k, s % top_k));
        positions[slot] = expert;
        if (expert >= 0) ++begins[static_cast<std::size_t>(expert) + 1];
    }
    for (std::size_t e = 1; e < begins.size(); ++e) begins[e] += begins[e - 1];
    for (std::size_t slot = 0; slot < slot_count; ++slot) {
        if (positions[slot] < 0) {
            positions[slot] = -1;
            continue;
        }
        std::int32_t& next = begins[static_cast<std::size_t>(positions[slot])];
        slots[static_cast<std::size_t>(next)] = static_cast<std::int32_t>(slot);
        positions[slot] = next++;
    }
    // Each begin has moved to its expert's end, which is where the next expert begins.
    std::copy_backward(begins.begin(), begins.end() - 1, begins.end());
    begins.front() = 0;
    return {begins, slots, positions};
}

}  // namespace tokamak::moe::cpu
