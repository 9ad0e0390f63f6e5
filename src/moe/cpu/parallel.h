// SPDX-License-Identifier: Apache-2.0
// Loops over threads. Results never depend on the number of threads: an index is computed by one thread from start to
// end. Builds without OpenMP (the thread sanitizer's) run the loops serially.
#pragma once

#include <algorithm>
#include <cstdint>

#ifdef _OPENMP
#include <omp.h>
#endif

namespace tokamak::moe::cpu {

/// Threads that a plan made now may use. Workspaces hold scratch for so many.
inline int thread_limit() noexcept {
#ifdef _OPENMP
    return std::max(1, omp_get_max_threads());
#else
    return 1;
#endif
}

/// Calls body(index, thread) for each index in [0, count), 0 <= thread < threads. `body` must not throw. `cost` is the
/// rough number of operations of one index: loops too small to pay for waking threads stay on the caller's.
template <class Body>
void parallel_for(std::int64_t count, int threads, std::int64_t cost, const Body& body) {
    constexpr std::int64_t kWorthAThread = 20000;
    const std::int64_t useful = count * std::max<std::int64_t>(cost, 1) / kWorthAThread;
    [[maybe_unused]] const int team =
        static_cast<int>(std::clamp<std::int64_t>(std::min(useful, count), 1, std::max(threads, 1)));
#ifdef _OPENMP
    if (team > 1) {
        const std::int64_t grain = std::max<std::int64_t>(1, count / (std::int64_t{8} * team));
#pragma omp parallel for num_threads(team) schedule(dynamic, grain)
        for (std::int64_t index = 0; index < count; ++index) body(index, omp_get_thread_num());
        return;
    }
#endif
    for (std::int64_t index = 0; index < count; ++index) body(index, 0);
}

}  // namespace tokamak::moe::cpu
