// SPDX-License-Identifier: Apache-2.0
// What all benchmarks share: how long to measure, how a result is judged, where it is reported.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "cli/results.h"
#include "cli/table.h"
#include "tokamak/tensor.h"
#include "tokamak/workspace.h"

namespace tokamak::cli::bench {

struct Settings {
    std::vector<std::int64_t> tokens = {1, 8, 64};
    Device device;
    bool quick = false;  ///< small sizes and few samples: whether it works, not how fast
    MeasureLimits limits;
    std::int64_t oracle_tokens = 16;  ///< leading tokens of a call that the float64 oracle computes too
    std::string keep_folder;          ///< where files are made and left; empty: a temporary folder
};

/// Distance of a result from its reference.
struct Distance {
    double norm = 0;     ///< norm of the error over the norm of the reference
    double largest = 0;  ///< largest error over the largest value of the reference
    [[nodiscard]] bool within(const Distance& limit) const noexcept {
        return norm <= limit.norm && largest <= limit.largest;
    }
};

/// Compares the elements of `reference` (f64, host) with as many leading ones of `result` (host). A value that is not
/// finite on either side gives NaN, which is within nothing.
Distance distance(const Tensor& result, const Tensor& reference);

/// One call in its two modes, and what it should give.
struct Measured {
    ResultRow row;                        ///< everything that does not depend on the mode
    std::function<OwnedTensor()> owning;  ///< allocates output and workspace
    std::function<void()> preallocated;   ///< writes `out`, works in `workspace`
    Tensor out;
    Workspace workspace;
    Tensor reference;  ///< f64, the leading tokens of the output
    Distance limit;    ///< with its reason where it is set
};

class Report {
  public:
    explicit Report(const Settings& settings);

    [[nodiscard]] const Settings& settings() const noexcept { return settings_; }
    [[nodiscard]] const Results& results() const noexcept { return results_; }
    [[nodiscard]] int failures() const noexcept { return failures_; }

    void progress(const std::string& text) { table_.progress(text); }
    void note(const std::string& text) { table_.note(text); }
    /// Poisons output and workspace, runs both modes, compares them with each other and with the reference, times them.
    void measure(const Measured& measured);

  private:
    void add_row(ResultRow row, const std::string& verdict);

    Settings settings_;
    Table table_;
    Results results_;
    int failures_ = 0;
};

}  // namespace tokamak::cli::bench
