// SPDX-License-Identifier: Apache-2.0
// `bench tuning`.
#pragma once

#include <string>
#include <vector>

#include "cli/tuning/options.h"

namespace tokamak::cli::tuning {

struct BenchOptions {
    std::vector<TuneOptions> groups;
    int tunings = 3;     ///< 0: judges what plans take already
    int rounds = 7;      ///< of the exhaustive measurement
    double seconds = 0;  ///< time budget of everything, shared out over the cases that are left; 0: none
    std::string out;
};

/// Exit status: 1 if a goal was missed.
int bench_tuning(const BenchOptions& options);

}  // namespace tokamak::cli::tuning
