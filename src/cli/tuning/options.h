// SPDX-License-Identifier: Apache-2.0
// What `tokamak tune moe` and `tune mla` tune: from the options to a list of cases.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "cli/bench/decode/options.h"
#include "tokamak/tune.h"

namespace tokamak::cli::tuning {

/// As given; an empty list stands for the default.
struct TuneOptions {
    std::string op;                    ///< "moe" or "mla"
    std::vector<std::string> shapes;   ///< NAME or NAME:FORMAT
    std::vector<std::string> formats;  ///< of shapes without one
    std::vector<std::string> routing = {"uniform"};
    std::map<std::string, std::int64_t> sizes;  ///< "hidden" and so on: a shape of these sizes instead of named ones
    std::string checkpoint;                     ///< its layers' shapes instead of named ones
    int layer = -1;                             ///< of the checkpoint; -1: every different one
    std::int64_t max_tokens = 0;                ///< 0: kFewTokens
    bool doubling = false;                      ///< buckets double all the way
    std::vector<std::int64_t> tokens;           ///< token counts instead of all buckets
    int ep = 1;                                 ///< ranks over which the experts are spread
    Device device;
    std::int64_t memory_bytes = 0;  ///< for weights or caches; 0: by the device
    double seconds = 0;             ///< time budget of a case; 0: none
    double candidate_seconds = 5;
    bool retry_failed = false;
    bool isolate = true;                 ///< candidates run in a process of their own first
    std::shared_ptr<tune::Clock> clock;  ///< of the limits, and of samples on a CPU; null: the machine's
    bool probing = false;                ///< this is that process: one layer of weights is enough

    [[nodiscard]] std::vector<std::int64_t> buckets() const;
    [[nodiscard]] std::int64_t size(const std::string& name) const;  ///< 0 if not given
    /// Whether nothing names what is to be tuned.
    [[nodiscard]] bool everything() const;
};

inline constexpr std::int64_t kFewTokens = 256;     ///< largest call of shapes for few tokens
inline constexpr std::int64_t kManyTokens = 32768;  ///< and of those for many

/// One problem to tune. `moe_shape` or `mla_shape` is that of the operator.
struct TuneCase {
    std::string op;
    std::string shape;
    std::string format;
    std::vector<std::string> named;  ///< options that name the shape to another process
    std::shared_ptr<const MoeShape> moe_shape;
    std::shared_ptr<const MlaShape> mla_shape;
    moe::FusedMoeProblem moe;
    KvFormat kv = KvFormat::bf16;
};

/// The published formats of the named shapes (all: none named), or every given format that fits them. Throws
/// `invalid_argument` or `parse` naming what is not known or does not divide.
std::vector<TuneCase> tune_cases(const TuneOptions& options);

/// What an operator ("moe", "mla", "all": both) is tuned on without a word about shapes: all that the benchmarks name,
/// shapes for few tokens up to kFewTokens, those for many up to kManyTokens. With shapes: these options once.
std::vector<TuneOptions> tune_groups(const std::string& op, const TuneOptions& common);

/// The options of a process that runs the candidates of one case for the first time.
std::vector<std::string> probe_arguments(const TuneOptions& options, const TuneCase& one, const std::string& journal);

}  // namespace tokamak::cli::tuning
