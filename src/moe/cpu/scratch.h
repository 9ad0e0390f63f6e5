// SPDX-License-Identifier: Apache-2.0
// The workspace of the operators that multiply with experts' weights. Tokens are worked on in chunks, so that it stops
// growing with the batch; results do not depend on the chunk length.
#pragma once

#include <cstddef>
#include <cstdint>

#include "moe/cpu/dot_kernel.h"
#include "tokamak/workspace.h"

namespace tokamak::moe::cpu {

/// The longest chunk: the weights of an expert are decoded once for each.
inline constexpr std::int64_t kMaxChunkTokens = 512;

struct ScratchShape {
    std::int64_t max_tokens = 0;
    std::int64_t top_k = 0;
    std::int64_t local_experts = 0;
    std::int64_t x_cols = 0;
    bool x_per_route = false;       ///< activations differ between the experts of a token
    std::int64_t intermediate = 0;  ///< columns between two GEMMs; 0 where there is one
    std::size_t acc_bytes = sizeof(float);
    int threads = 1;
    std::size_t reserved_bytes = 0;  ///< of the limit: booked already
};

struct Scratch {
    int threads = 1;  ///< that there is scratch for
    std::int64_t chunk_tokens = 0;
    Slice<std::int32_t> group_begins;  ///< see ExpertGroups
    Slice<std::int32_t> group_slots;
    Slice<std::int32_t> group_positions;
    // Below: `Acc` values, booked as bytes because the plan's variant decides the type.
    Slice<std::byte> x;             ///< [tokens or routes of a chunk, padded x_cols]
    Slice<std::byte> intermediate;  ///< [routes of a chunk, padded intermediate]
    Slice<std::byte> weights;       ///< per thread [kBlockRows, kPieceCols]
    Slice<std::byte> sums;          ///< per thread [routes of a chunk, kBlockRows]

    template <class Acc>
    static Acc* as(Slice<std::byte> slice, const Workspace& workspace) noexcept {
        return reinterpret_cast<Acc*>(slice.in(workspace));
    }
    /// The part of a per-thread slice that belongs to `thread`.
    template <class Acc>
    [[nodiscard]] Acc* of_thread(Slice<std::byte> slice, const Workspace& workspace, int thread) const noexcept {
        const std::size_t share = slice.count / static_cast<std::size_t>(threads);
        return reinterpret_cast<Acc*>(slice.in(workspace) + share * static_cast<std::size_t>(thread));
    }
};

/// Books the slices for chunks of at most kMaxChunkTokens tokens, or of as many as fit into `limit_bytes` (0: no
/// limit). Throws `invalid_argument` naming the smallest workable limit if not even one token fits.
Scratch book_scratch(const char* op, const ScratchShape& shape, std::size_t limit_bytes, WorkspaceLayout& layout);

}  // namespace tokamak::moe::cpu
