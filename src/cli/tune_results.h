// SPDX-License-Identifier: Apache-2.0
// What a tuning found, for people and for the report.
#pragma once

#include <nlohmann/json.hpp>
#include <span>
#include <string>

#include "cli/table.h"
#include "tokamak/tune.h"

namespace tokamak::cli {

/// A tuning and the names by which a benchmark calls its problem.
struct NamedTuning {
    std::string op;
    std::string shape;
    std::string format;
    tune::Tuning tuning;
    double seconds = 0;  ///< that it took, first contact and random data included
};

/// The winners with their margins, a line each; then what was skipped and what failed, with the reasons.
void print_tuning(const NamedTuning& named, Table& table);
Table tuning_table();

/// In the form of benchmark results, so that `tokamak report` draws it: a row for every winner (source "tuned", with
/// the default's time) and for every other candidate (source "option").
nlohmann::json tuning_json(std::span<const NamedTuning> tunings);

}  // namespace tokamak::cli
