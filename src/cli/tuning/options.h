// SPDX-License-Identifier: Apache-2.0
// What `tokamak tune moe` and `tune mla` tune: from the options to a list of cases.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "cli/bench/decode/options.h"

namespace tokamak::cli::tuning {

/// As given; an empty list stands for the default.
struct TuneOptions {
    std::string op;  ///< "moe" or "mla"
    std::vector<std::string> shapes;
    std::vector<std::string> formats;
    std::vector<std::string> routing = {"uniform"};
    std::map<std::string, std::int64_t> sizes;  ///< "hidden" and so on: a shape of these sizes instead of named ones
    std::int64_t max_tokens = 256;
    std::vector<std::int64_t> tokens;  ///< token counts instead of all buckets
    int ep = 1;                        ///< ranks over which the experts are spread
    Device device;
    std::int64_t memory_bytes = 0;  ///< for weights or caches; 0: by the device
    double seconds = 0;             ///< time budget of a case; 0: none
    double candidate_seconds = 5;
    bool retry_failed = false;
    bool isolate = true;  ///< candidates run in a process of their own first

    [[nodiscard]] std::vector<std::int64_t> buckets() const;
    [[nodiscard]] std::int64_t size(const std::string& name) const;  ///< 0 if not given
};

/// One problem to tune. `moe_shape` or `mla_shape` is that of the operator.
struct TuneCase {
    std::string op;
    std::string shape;
    std::string format;
    std::shared_ptr<const MoeShape> moe_shape;
    std::shared_ptr<const MlaShape> mla_shape;
    moe::FusedMoeProblem moe;
    KvFormat kv = KvFormat::bf16;
};

/// The published formats of the named shapes (all: none named), or every given format that fits them. Throws
/// `invalid_argument` or `parse` naming what is not known or does not divide.
std::vector<TuneCase> tune_cases(const TuneOptions& options);

/// The options of a process that runs the candidates of one case for the first time.
std::vector<std::string> probe_arguments(const TuneOptions& options, const TuneCase& one, const std::string& journal);

}  // namespace tokamak::cli::tuning
