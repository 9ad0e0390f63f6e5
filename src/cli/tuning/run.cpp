// SPDX-License-Identifier: Apache-2.0
#include "cli/tuning/run.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <utility>

#include "cli/common.h"
#include "cli/progress_bar.h"
#include "cli/report/html.h"
#include "cli/results.h"
#include "cli/tuning/probe.h"
#include "core/config_store.h"
#include "core/throw.h"

namespace tokamak::cli::tuning {
namespace {

constexpr double kProbeSeconds = 300;  ///< of one child: starting, filling memory, all candidates
constexpr double kFirstRoundDrop = 0.25;
constexpr double kHopeless = 4;
constexpr double kBetween = 0.03;
constexpr int kMostRounds = 21;
constexpr double kLeastSeconds = 1;  ///< for the measurements of a case, whatever else took

/// A file name that no other process has; removed with the object.
class Journal {
  public:
    Journal()
        : path_(
              (std::filesystem::temp_directory_path() / fmt::format("tokamak-tune-{}-{}.journal", getpid(), counter_++))
                  .string()) {
        std::filesystem::remove(path_);
    }
    ~Journal() {
        std::error_code ignored;
        std::filesystem::remove(path_, ignored);
    }
    Journal(const Journal&) = delete;
    Journal& operator=(const Journal&) = delete;
    [[nodiscard]] const std::string& path() const noexcept { return path_; }

  private:
    inline static int counter_ = 0;
    std::string path_;
};

void write_outputs(const std::vector<NamedTuning>& tunings, const Outputs& outputs) {
    if (outputs.json.empty() && outputs.report.empty()) return;
    const nlohmann::json document = tuning_json(tunings);
    if (!outputs.json.empty()) write_text(outputs.json, to_text(document));
    if (!outputs.report.empty())
        write_text(outputs.report, report::html_report(report::read_results(document, "tuning")));
}

/// What a store says about failures of this build is known before anything runs; its winners do not matter here. Saving
/// to a file that is no store would be refused, but only after the first case.
void know_failures_of(const std::string& path) {
    const std::string text = read_text(path);
    if (!ConfigStore::parse_strictly(text, path))
        fail(ErrorCode::parse, "`--store` {}: not a Tokamak configuration store of version 1", printable(path));
    static_cast<void>(tune::install(text, path));
}

double now() { return tune::steady_clock().seconds(); }

/// `seconds`: for everything, if above 0.
NamedTuning tune_case(const TuneOptions& options, const TuneCase& one, double seconds) {
    const double begin = now();
    require_supported(one, options);
    const Probed probed = first_contact(options, one);
    const std::unique_ptr<Subject> subject = make_subject(one, options);
    ProgressBar bar;
    tune::Options measurement = measurement_options(options);
    measurement.leave_out = probed.leave_out;
    if (seconds > 0) {
        const double left = std::max(kLeastSeconds, seconds - (now() - begin));
        measurement.seconds = options.seconds > 0 ? std::min(options.seconds, left) : left;
    }
    measurement.progress = [&](const tune::Progress& progress) {
        const auto rounds = static_cast<std::size_t>(progress.max_rounds);
        bar.show_steps(one.shape + " " + one.format,
                       fmt::format(", {} tokens, {} candidates", progress.tokens, progress.active),
                       progress.bucket * rounds + static_cast<std::size_t>(progress.round), progress.buckets * rounds);
    };
    NamedTuning named{one.op, one.shape, one.format, subject->tune(options.buckets(), measurement, probed.contact)};
    named.seconds = now() - begin;
    return named;
}

}  // namespace

tune::Options measurement_options(const TuneOptions& options) {
    tune::Options measurement;
    measurement.seconds = options.seconds;
    measurement.max_rounds = kMostRounds;
    measurement.first_round_drop = kFirstRoundDrop;
    measurement.hopeless = kHopeless;
    measurement.between = kBetween;
    measurement.candidate_seconds = options.candidate_seconds;
    measurement.retry_failed = options.retry_failed;
    measurement.clock = options.clock.get();
    return measurement;
}

Probed first_contact(const TuneOptions& options, const TuneCase& one) {
    if (!options.isolate) return {};
    const Journal journal;
    const std::string program = std::filesystem::read_symlink("/proc/self/exe").string();
    const Verdicts verdicts = probe_in_child(program, probe_arguments(options, one, journal.path()), journal.path(),
                                             kProbeSeconds, options.candidate_seconds);
    const Limits limits = read_limits(read_text(journal.path()));
    const auto contact = [verdicts](const std::string& variant, std::int64_t) {
        const auto found = verdicts.find(variant);
        if (found == verdicts.end()) fail(ErrorCode::internal, "{} was not probed", variant);
        if (!found->second.empty()) fail(ErrorCode::internal, "{}", found->second);
    };
    const auto leave_out = [limits](const std::string& variant, std::int64_t tokens) -> std::string {
        const auto limit = limits.find(variant);
        if (limit == limits.end() || tokens <= limit->second) return {};
        return fmt::format("not tried: took many times as long as any call has to at {} tokens", limit->second);
    };
    return {contact, leave_out};
}

int run_tuning(const std::vector<TuneOptions>& operators, const Outputs& outputs) {
    if (!outputs.store.empty() && std::filesystem::exists(outputs.store)) know_failures_of(outputs.store);
    std::vector<std::pair<const TuneOptions*, TuneCase>> cases;
    for (const TuneOptions& options : operators)
        for (TuneCase& one : tune_cases(options)) cases.emplace_back(&options, std::move(one));
    const double begin = now();
    Table table = tuning_table();
    std::vector<NamedTuning> tunings;
    for (std::size_t i = 0; i < cases.size(); ++i) {
        const auto& [options, one] = cases[i];
        const double left = std::max(kLeastSeconds, outputs.seconds - (now() - begin));
        const double share = outputs.seconds > 0 ? left / static_cast<double>(cases.size() - i) : 0;
        try {
            tunings.push_back(tune_case(*options, one, share));
        } catch (const Error& error) {
            if (error.code() != ErrorCode::unsupported && error.code() != ErrorCode::out_of_memory) throw;
            table.note(fmt::format("{} {}: {}", one.shape, one.format, error.what()));
            continue;
        }
        print_tuning(tunings.back(), table);
        write_outputs(tunings, outputs);  // so that a later crash costs less
        if (!outputs.store.empty()) tune::save(std::vector{tunings.back().tuning}, outputs.store);
    }
    table.note(fmt::format("{} of {} problems tuned in {:.0f} s", tunings.size(), cases.size(), now() - begin));
    return tunings.empty() ? 1 : 0;
}

int run_probe(const TuneOptions& options, const std::string& journal) {
    const auto cases = tune_cases(options);
    if (cases.size() != 1) invalid("tune: --probe is for one case, given are {}", cases.size());
    TuneOptions probing = options;
    probing.probing = true;
    const std::unique_ptr<Subject> subject = make_subject(cases.front(), probing);
    probe_here(
        subject->variants(), journal, options.candidate_seconds,
        [&](const std::string& variant, const std::function<void()>& alive) { return subject->probe(variant, alive); });
    return 0;
}

}  // namespace tokamak::cli::tuning
