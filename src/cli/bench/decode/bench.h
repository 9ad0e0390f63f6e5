// SPDX-License-Identifier: Apache-2.0
// Times operators on a GPU: what the benchmarks of all operators share.
#pragma once

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "cli/bench/decode/clocks.h"
#include "cli/bench/decode/command.h"
#include "cli/bench/decode/fill.h"
#include "cli/bench/decode/pace.h"
#include "cli/bench/decode/rotation.h"
#include "cli/bench/decode/sampled.h"
#include "cli/bench/report.h"
#include "cli/results.h"
#include "cli/table.h"
#include "cuda/graph.h"

namespace tokamak::cli::bench {

/// One configuration to time and to check. `set` numbers the data of a call: 0 to most_calls - 1; set 0 is the one that
/// `check` knows, and always the last of a replay.
struct Subject {
    ResultRow row;  ///< op, shape, format, tokens, routing, variant, flops, decode
    Mode mode = Mode::graph;
    int most_calls = 32;
    double matrix_tflops = 0;                ///< rate that `flops` can have at most
    bool sustained = false;                  ///< in a graph: also without rests, until the clock has settled
    bool many_tokens = false;                ///< the floor counts arithmetic too, and rates are reported
    std::function<double(int calls)> flops;  ///< of a call, mean over that many sets; empty: as in `row`
    std::function<double(int calls)> bytes;  ///< of a call, mean over that many sets
    std::function<OwnedTensor(int set, Stream)> owning;  ///< the main output
    std::function<void(int set, Stream)> preallocated;   ///< into `out`
    std::function<void(Stream)> bare;                    ///< `run` alone on arguments made before, for the host's time
    Tensor out;
    Workspace workspace;
    std::function<Distance(const Tensor& out)> check;  ///< of what set 0 gives
    Distance limit;
    std::int64_t checked_tokens = 0;
};

/// Microseconds of a call in replays of two graphs in turn.
struct PairTimes {
    std::vector<double> first;
    std::vector<double> second;

    [[nodiscard]] std::vector<double> differences() const;  ///< first less second
};

class DecodeBench {
  public:
    /// Measures ceilings and read floors. Throws `unsupported` where the device is not Hopper.
    DecodeBench(const DecodeOptions& options, const std::string& benchmark);

    [[nodiscard]] const DecodeOptions& options() const noexcept { return options_; }
    [[nodiscard]] Device device() const noexcept { return options_.device; }
    [[nodiscard]] const cuda::OwnedStream& stream() const noexcept { return stream_; }
    [[nodiscard]] Lane lane() const noexcept { return {device(), stream_.stream()}; }
    [[nodiscard]] double read_gbps() const noexcept { return read_gbps_; }
    [[nodiscard]] double copy_gbps() const noexcept { return copy_gbps_; }
    [[nodiscard]] double bf16_tflops() const noexcept { return bf16_tflops_; }
    [[nodiscard]] double fp8_tflops() const noexcept { return fp8_tflops_; }
    [[nodiscard]] int failures() const noexcept { return failures_; }

    /// Poisons output and workspace, runs as it will be timed, checks, times, and adds a row.
    void measure(const Subject& subject);
    /// The same without the row: another run of what has one. Median.
    double measure_again(const Subject& subject);
    [[nodiscard]] const Results& results() const noexcept { return results_; }
    void add_repeat(Repeat repeat) { results_.repeats.push_back(std::move(repeat)); }
    void add_rise(Rise rise) { results_.rises.push_back(std::move(rise)); }
    void add_clearing(ClearingCost cost);
    void add_routing(RoutingCost cost);
    /// Replays graphs of `calls` calls each, from rest like everything else, in turn so that both see the same clocks.
    PairTimes time_pairs(const cuda::CapturedGraph& first, const cuda::CapturedGraph& second, int calls);
    /// Times `run` on the host, without waiting for the device.
    void measure_host(const Subject& subject);
    /// Adds a row that was timed elsewhere.
    void add(ResultRow row);
    void refuse(const std::string& op, const std::string& shape, const std::string& format, const std::string& reason);
    void progress(const std::string& text) { table_.progress(text); }
    void note(const std::string& text) { table_.note(text); }
    /// Writes what there is so far, so that a later crash costs less.
    void save() const;

  private:
    void measure_ceilings();
    ResultRow measured(const Subject& subject);
    /// Waits until the device has rested.
    void rest() const;
    /// Times work that has run once, in stretches of a rested device; notes the clock. Of a call at most `most_us`
    /// count as work that tires the device.
    Timing time_paced(const std::function<void()>& work, int calls, double most_us, DecodeFacts& facts);
    /// The same without rests.
    void time_sustained(const std::function<void()>& work, int calls, DecodeFacts& facts);
    Timing time(const Subject& subject, int calls, ResultRow& row);
    Timing time_eager(const Subject& subject, int calls, ResultRow& row);
    Timing time_host(const std::function<void()>& call);
    void judge(const Subject& subject, const Tensor& out, ResultRow& row);

    DecodeOptions options_;
    cuda::OwnedStream stream_;
    std::size_t l2_bytes_ = 0;
    ClockMeter meter_;
    Pace pace_;
    FloorCurve floors_;
    double read_gbps_ = 0;
    double copy_gbps_ = 0;
    double bf16_tflops_ = 0;
    double fp8_tflops_ = 0;
    Table table_;
    Results results_;
    int failures_ = 0;
};

}  // namespace tokamak::cli::bench
