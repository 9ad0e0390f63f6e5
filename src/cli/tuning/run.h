// SPDX-License-Identifier: Apache-2.0
#pragma once

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
};

/// Candidates far behind leave after one round; rounds end early where the order is clear.
tune::Options measurement_options(const TuneOptions& options);

/// First contact in child processes, if the options ask for it.
Contact first_contact(const TuneOptions& options, const TuneCase& one);

/// Tunes every case and prints winners as it goes; a case that cannot run is noted and passed over. Exit status: 1 if
/// nothing was tuned.
int run_tuning(const std::vector<TuneOptions>& operators, const Outputs& outputs);

/// The child's part: see probe.h.
int run_probe(const TuneOptions& options, const std::string& journal);

}  // namespace tokamak::cli::tuning
