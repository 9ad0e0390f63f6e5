// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>

#include "moe/cpu/expert_lookup.h"
#include "moe/cpu/scratch.h"

namespace tokamak::moe::cpu {

/// The routes of a chunk of tokens, sorted by local expert; slot = token in the chunk * top_k + j. Routes to experts
/// that are elsewhere, and ids that name none, are left out.
struct ExpertGroups {
    std::span<const std::int32_t> begins;     ///< of each local expert's positions, and their end
    std::span<const std::int32_t> slots;      ///< position -> slot, ascending inside an expert
    std::span<const std::int32_t> positions;  ///< slot -> position, or -1 if left out

    [[nodiscard]] std::int64_t experts() const noexcept { return static_cast<std::int64_t>(begins.size()) - 1; }
    [[nodiscard]] std::int64_t begin(std::int64_t expert) const noexcept {
        return begins[static_cast<std::size_t>(expert)];
    }
    [[nodiscard]] std::int64_t end(std::int64_t expert) const noexcept { return begin(expert + 1); }
    /// Calls work(expert, begin, end) for every expert that has routes.
    template <class Work>
    void for_each(const Work& work) const {
        for (std::int64_t expert = 0; expert < experts(); ++expert)
            if (begin(expert) != end(expert)) work(expert, begin(expert), end(expert));
    }
    /// Routes that are kept.
    [[nodiscard]] std::int64_t routes() const noexcept { return begins.back(); }
};

/// Sorts the routes of tokens [first_token, first_token + tokens) into the scratch.
ExpertGroups group_by_expert(const Scratch& scratch, const Workspace& workspace, const ExpertLookup& lookup,
                             const Tensor& ids, std::int64_t first_token, std::int64_t tokens);

}  // namespace tokamak::moe::cpu
