// SPDX-License-Identifier: Apache-2.0
#include "cli/results.h"

#include <cmath>

#include "core/build_info.h"

namespace tokamak::cli {
namespace {

/// JSON has no NaN and no infinity: a failed comparison becomes null.
nlohmann::json number(double value) { return std::isfinite(value) ? nlohmann::json(value) : nlohmann::json(); }

nlohmann::json row_json(const ResultRow& row) {
    return {{"op", row.op},
            {"shape", row.shape},
            {"format", row.format},
            {"tokens", row.tokens},
            {"routing", row.routing},
            {"mode", row.mode},
            {"variant", row.variant},
            {"us_median", row.timing.median},
            {"us_p10", row.timing.p10},
            {"us_p90", row.timing.p90},
            {"samples", row.timing.samples},
            {"bytes", row.bytes},
            {"flops", row.flops},
            {"ceiling_share", row.ceiling_share ? nlohmann::json(*row.ceiling_share) : nlohmann::json()},
            {"max_error", number(row.max_error)},
            {"error_norm", number(row.error_norm)},
            {"checked_tokens", row.checked_tokens}};
}

}  // namespace

nlohmann::json to_json(const Results& results) {
    nlohmann::json document = {{"tokamak", build_info::version()},
                               {"commit", build_info::commit()},
                               {"device", results.device},
                               {"ceilings", results.ceilings},
                               {"rows", nlohmann::json::array()}};
    for (const ResultRow& row : results.rows) document["rows"].push_back(row_json(row));
    return document;
}

}  // namespace tokamak::cli
