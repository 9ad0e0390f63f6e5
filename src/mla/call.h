// SPDX-License-Identifier: Apache-2.0
// What the five operators share around a call: capability answers, scratch of threads.
#pragma once

#include <omp.h>

#include <algorithm>
#include <cstdint>

#include "core/choose.h"
#include "core/operator_call.h"
#include "core/throw.h"
#include "mla/cuda/backend.h"
#include "tokamak/plan.h"

namespace tokamak::mla {

/// Answer of `supports`: a malformed problem is refused with the text that make_plan would throw.
template <class Problem>
Support support_of(const Problem& problem, Device device, void (*validate)(const Problem&)) {
    if (Support well_formed = tokamak::support_of([&] { validate(problem); }); !well_formed) return well_formed;
    if (device.is_cuda()) return cuda::supports(problem, device);
    return tokamak::support_of([&] { (void)device_info(device); });  // refuses a CPU other than the one
}

/// Books scratch for as many threads as OpenMP would start now, but not more than there is work for, and fewer where
/// `max_workspace_bytes` asks for it. `book(layout, threads)` adds the slices. Returns the number of threads.
template <class Book>
int book_threads(detail::PlanState& state, std::int64_t work_items, const Book& book) {
    const std::size_t limit = state.options.max_workspace_bytes;
    int threads = static_cast<int>(std::min<std::int64_t>(omp_get_max_threads(), work_items));
    for (; threads > 0; --threads) {
        WorkspaceLayout layout;
        book(layout, static_cast<std::size_t>(threads));
        const std::size_t bytes = layout.size().bytes;
        if (limit != 0 && bytes > limit && threads == 1)
            invalid("{}: `max_workspace_bytes` is {}, the smallest workable one is {}", state.op, limit, bytes);
        state.layout = std::move(layout);
        if (limit == 0 || bytes <= limit) break;
    }
    return threads;
}

/// How many pieces of work a call can have at most, without overflow: more than any machine has threads is enough.
inline std::int64_t work_items(std::int64_t tokens, std::int64_t per_token) noexcept {
    constexpr std::int64_t plenty = 1 << 20;
    return std::min(tokens, plenty) * std::min(per_token, plenty);
}

}  // namespace tokamak::mla
