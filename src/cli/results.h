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

/// What a benchmark on a device knows beside the times of a call; docs/command_line.md has the meaning of each.
struct DecodeFacts {
    std::string source;              ///< of the variant: "option", "override", "tuned", "shipped", "heuristic"
    std::int64_t device_tokens = 0;  ///< the count on the device: below `tokens` in a graph captured for more
    double floor_us = 0;             ///< to read `bytes` once with a plain streaming kernel
    std::optional<double> must_us;
    std::optional<double> aim_us;
    std::optional<double> best_public_us;
    std::string best_public;             ///< whose
    std::optional<double> launches;      ///< kernels of one call
    std::optional<double> tflops;        ///< benchmarks of many tokens: the rate,
    std::optional<double> matrix_share;  ///< and its share of the sustained matrix ceiling of the same run
    double sm_mhz = 0;                   ///< clock of the multiprocessors while it was timed; 0: not known
    std::optional<double> sustained_us;  ///< without rests, after the clock has settled at the power limit
    double sustained_mhz = 0;
    bool correct = true;
};

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
    std::int64_t checked_tokens = 0;      ///< tokens that were compared with the reference
    std::optional<DecodeFacts> decode;    ///< benchmarks of one operator on a device
};

/// A combination that the device's backend refuses.
struct Refusal {
    std::string op;
    std::string shape;
    std::string format;
    std::string reason;
};

/// What one call of `run` costs the host.
struct HostCost {
    std::string op;
    std::string shape;
    std::string format;
    std::int64_t tokens = 0;
    Timing timing;
    double launches = 0;
    double launch_us = 0;  ///< what launching an empty kernel costs, measured just before
    double must_us = 0;
};

/// One call measured several times in a run of the benchmark.
struct Repeat {
    std::string op;
    std::string shape;
    std::string format;
    std::int64_t tokens = 0;
    std::string variant;
    std::vector<double> us;  ///< medians

    [[nodiscard]] double spread() const noexcept;  ///< largest over least, less one
};

/// A token count at which a token takes longer than at the count before.
struct Rise {
    std::string op;
    std::string shape;
    std::string format;
    std::int64_t before = 0;
    std::int64_t tokens = 0;
    double rise = 0;  ///< of the time per token, as a share
};

/// What clearing the output costs the atomic combine, measured in pairs.
struct ClearingCost {
    std::string op;
    std::string shape;
    std::string format;
    std::int64_t tokens = 0;
    std::int64_t rows = 0;  ///< of an expert, on average
    std::string variant;
    double us = 0;          ///< median, with the clearing
    double us_without = 0;  ///< median of the same calls without
    double more = 0;        ///< median of the ratios of the pairs, less one; its 95 % interval
    double more_low = 0;
    double more_high = 0;
    int pairs = 0;
    bool correct = true;

    /// What `more` may be from 128 rows on: a percent or a microsecond.
    [[nodiscard]] double allowed() const noexcept;
};

/// What routing inside the call costs: a layer from router logits and the same calls from ids, measured in pairs.
struct RoutingCost {
    std::string op;
    std::string shape;
    std::string format;
    std::int64_t tokens = 0;
    std::int64_t max_tokens = 0;  ///< of both plans
    std::string method;           ///< "softmax", "sigmoid_grouped"
    std::string variant;
    double us = 0;           ///< median, from logits
    double us_from_ids = 0;  ///< the same
    double more_us = 0;      ///< median of the differences of the pairs; its 95 % interval
    double more_low = 0;
    double more_high = 0;
    std::optional<double> must_us{};  ///< what the difference may be
    double launches = 0;              ///< of a call from logits
    int pairs = 0;
    bool correct = true;  ///< both gave the same
};

struct Results {
    std::string benchmark;  ///< "moe_decode", "mla_decode"; empty: the preset on any device
    std::string device;
    nlohmann::json ceilings = {{"source", "not measured"}};
    nlohmann::json read_floors = nlohmann::json::array();
    std::vector<ResultRow> rows;
    std::vector<Refusal> refused;
    std::vector<HostCost> host;
    std::vector<Repeat> repeats;
    std::vector<Rise> rises;
    std::vector<ClearingCost> clearing;
    std::vector<RoutingCost> from_logits;
};

/// Rises of more than `noise` among the rows with uniform routing in a graph, by shape and format, each ascending in
/// tokens.
std::vector<Rise> rises_of(const std::vector<ResultRow>& rows, double noise);

nlohmann::json to_json(const Results& results);

/// The document as text with a line for each row: long results stay readable, and their differences too.
std::string to_text(const nlohmann::json& document);

}  // namespace tokamak::cli
