// SPDX-License-Identifier: Apache-2.0
#include "moe/cpu/scratch.h"

#include <algorithm>

#include "core/throw.h"

namespace tokamak::moe::cpu {
namespace {

Scratch book_chunk(const ScratchShape& shape, std::int64_t chunk_tokens, WorkspaceLayout& layout) {
    const auto routes = static_cast<std::size_t>(chunk_tokens * shape.top_k);
    const auto threads = static_cast<std::size_t>(shape.threads);
    const auto values = [&](const char* name, std::size_t rows, std::int64_t cols) {
        return layout.add<std::byte>(name, rows * static_cast<std::size_t>(cols) * shape.acc_bytes);
    };
    Scratch scratch;
    scratch.threads = shape.threads;
    scratch.chunk_tokens = chunk_tokens;
    scratch.group_begins = layout.add<std::int32_t>("group_begins", static_cast<std::size_t>(shape.local_experts) + 1);
    scratch.group_slots = layout.add<std::int32_t>("group_slots", routes);
    scratch.group_positions = layout.add<std::int32_t>("group_positions", routes);
    scratch.x =
        values("x", shape.x_per_route ? routes : static_cast<std::size_t>(chunk_tokens), pad_cols(shape.x_cols));
    if (shape.intermediate > 0) scratch.intermediate = values("intermediate", routes, pad_cols(shape.intermediate));
    scratch.weights = values("weights", threads * kBlockRows, kPieceCols);
    scratch.sums = values("sums", threads * routes, kBlockRows);
    return scratch;
}

std::size_t bytes_of_chunk(const ScratchShape& shape, std::int64_t chunk_tokens) {
    WorkspaceLayout layout;
    if (shape.reserved_bytes > 0) layout.add<std::byte>("reserved", shape.reserved_bytes);
    book_chunk(shape, chunk_tokens, layout);
    return layout.size().bytes;
}

}  // namespace

Scratch book_scratch(const char* op, const ScratchShape& shape, std::size_t limit_bytes, WorkspaceLayout& layout) {
    if (shape.max_tokens == 0) return {};
    const std::int64_t longest = std::min(shape.max_tokens, kMaxChunkTokens);
    if (limit_bytes == 0) return book_chunk(shape, longest, layout);
    const std::size_t smallest = bytes_of_chunk(shape, 1);
    if (smallest > limit_bytes)
        invalid("{}: `max_workspace_bytes` is {}, the smallest workable limit is {}", op, limit_bytes, smallest);
    std::int64_t fits = 1;
    for (std::int64_t too_long = longest + 1; too_long - fits > 1;) {
        const std::int64_t middle = fits + (too_long - fits) / 2;
        (bytes_of_chunk(shape, middle) <= limit_bytes ? fits : too_long) = middle;
    }
    return book_chunk(shape, fits, layout);
}

}  // namespace tokamak::moe::cpu
