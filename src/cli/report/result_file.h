// SPDX-License-Identifier: Apache-2.0
// A benchmark's JSON as the report needs it. What a file does not say stays absent; nothing in it is trusted.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

namespace tokamak::cli::report {

/// One measured call. Numbers are finite and above zero, or absent.
struct Row {
    double tokens = 0;         ///< of the call; what a graph was captured for
    double device_tokens = 0;  ///< that were computed
    double us = 0;             ///< median
    std::optional<double> p10;
    std::optional<double> p90;
    std::string mode;
    std::string variant;
    std::string source;     ///< who chose the variant; may be empty
    bool automatic = true;  ///< what a user gets; false: a configuration that was pinned for comparison
    std::optional<double> bytes;
    std::optional<double> flops;
    std::optional<double> floor_us;  ///< time of a plain streaming kernel for the bytes
    std::optional<double> must_us;
    std::optional<double> aim_us;
    std::optional<double> public_us;   ///< best public figure
    std::optional<double> default_us;  ///< of a tuning: what would run without it
    std::string public_name;
    std::optional<double> ceiling_share;
    std::optional<double> error;

    [[nodiscard]] bool captured_larger() const noexcept { return device_tokens != tokens; }
    [[nodiscard]] std::optional<double> floor_share() const noexcept;
};

/// Rows of one operator, shape, format and routing.
struct Group {
    std::string op;
    std::string shape;
    std::string format;
    std::string routing;
    std::vector<Row> rows;  ///< by mode, variant and tokens

    [[nodiscard]] std::string title() const;  ///< operator, shape, format, routing
    [[nodiscard]] std::string name() const;   ///< the same without the operator
    /// Modes that occur: owning, workspace, graph first, others after them.
    [[nodiscard]] std::vector<std::string> modes() const;
    /// The mode that the plots show: graph, or the last one that occurs.
    [[nodiscard]] std::string main_mode() const;
};

struct Fact {
    std::string name;
    std::string value;
};

struct ResultFile {
    std::string name;  ///< benchmark, or the file's own name
    std::vector<Fact> facts;
    std::optional<double> read_gbps;
    std::optional<double> bf16_tflops;  ///< sustained
    std::optional<double> fp8_tflops;
    std::vector<Group> groups;  ///< in the order of the file
    std::size_t skipped = 0;    ///< rows without a token count or a time
};

/// Throws `parse` for a document that is no object or whose rows are no list.
ResultFile read_results(const nlohmann::json& document, const std::string& name);

}  // namespace tokamak::cli::report
