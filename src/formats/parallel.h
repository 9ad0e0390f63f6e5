// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <omp.h>

#include <cstdint>
#include <exception>

namespace tokamak::formats {

/// Calls body(i) for i in [0, count) on `threads` threads (0: all). An exception must not leave an OpenMP region, so
/// the one of the lowest index is kept and thrown here at the end, whatever the number of threads.
template <class Body>
void parallel_for(std::int64_t count, Body body, int threads = 0) {
    threads = threads > 0 ? threads : omp_get_max_threads();
    std::exception_ptr failure;
    std::int64_t failed = count;
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (std::int64_t i = 0; i < count; ++i) {
        try {
            body(i);
        } catch (...) {
#pragma omp critical(tokamak_formats_parallel_for)
            if (i < failed) {
                failed = i;
                failure = std::current_exception();
            }
        }
    }
    if (failure) std::rethrow_exception(failure);
}

}  // namespace tokamak::formats
