// SPDX-License-Identifier: Apache-2.0
// Results of benchmarks in the form that results/<device>/*.json have.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "cli/timing.h"
#include "tokamak/device.h"

namespace tokamak::cli {

/// One measured call.
struct ResultRow {
    std::string op;
    std::string shape;
    std::string format;
    std::int64_t tokens = 0;
    std::string routing;  ///< how experts or rows were chosen
    std::string mode;     ///< "owning", "workspace", "graph"
    std::string variant;
    Timing timing;
    double bytes = 0;  ///< that have to move at least once
    double flops = 0;
    std::optional<double> ceiling_share;  ///< ideal time over measured time; nothing where no ceiling was measured
    double max_error = 0;                 ///< largest error over the largest value of the reference
    double error_norm = 0;                ///< norm of the error over the norm of the reference
    std::int64_t checked_tokens = 0;      ///< leading tokens that were compared with the reference
};

struct Results {
    std::string device;
    nlohmann::json ceilings = {{"source", "not measured"}};
    std::vector<ResultRow> rows;
};

nlohmann::json to_json(const Results& results);

}  // namespace tokamak::cli
