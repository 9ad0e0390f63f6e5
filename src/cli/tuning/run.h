// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "cli/tune_results.h"
#include "cli/tuning/options.h"
#include "cli/tuning/subject.h"

namespace tokamak::cli::tuning {

/// Where the findings go; empty: nowhere.
struct Outputs {
    std::string store;   ///< merged into this configuration store
    std::string json;    ///< every candidate's times
    std::string report;  ///< the same as a page with plots
    double seconds = 0;  ///< time budget of all cases together, shared out over those that are left; 0: none
};

/// Candidates far behind leave after one round; rounds end early where the order is clear; counts between the buckets
/// get rows where they need them.
tune::Options measurement_options(const TuneOptions& options);

/// What first contact in a process of its own showed; empty functions where the options do not ask for one.
struct Probed {
    Contact contact;
    std::function<std::string(const std::string& variant, std::int64_t tokens)> leave_out;
};
Probed first_contact(const TuneOptions& options, const TuneCase& one);

/// Tunes every case and prints winners as it goes; a case that cannot run is noted and passed over. Exit status: 1 if
/// nothing was tuned.
int run_tuning(const std::vector<TuneOptions>& operators, const Outputs& outputs);

/// The child's part: see probe.h.
int run_probe(const TuneOptions& options, const std::string& journal);

}  // namespace tokamak::cli::tuning
