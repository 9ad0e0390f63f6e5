// SPDX-License-Identifier: Apache-2.0
#include "cli/tuning/bench.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <utility>

#include "cli/common.h"
#include "cli/results.h"
#include "cli/table.h"
#include "cli/tuning/judge.h"
#include "cli/tuning/run.h"
#include "core/throw.h"

namespace tokamak::cli::tuning {
namespace {

Table judged_table() {
    return Table({{"shape", 14, true},
                  {"format", 9, true},
                  {"tokens", 6},
                  {"chosen", 24, true},
                  {"source", 9, true},
                  {"us", 8},
                  {"best", 24, true},
                  {"us", 8},
                  {"loss", 6},
                  {"default", 8},
                  {"spread", 6}});
}

std::string percent(double share) { return fmt::format("{:.1f}%", 100.0 * share); }

void print(Table& table, const Judged& row) {
    table.row({row.shape, row.format, std::to_string(row.tokens), row.chosen, row.source, fmt::format("{:.1f}", row.us),
               row.best, fmt::format("{:.1f}", row.best_us), percent(row.loss()),
               fmt::format("{:.1f}", row.fallback_us), row.between ? "" : percent(row.spread)});
}

std::vector<std::int64_t> counts_from(std::int64_t least, const std::vector<std::int64_t>& counts) {
    std::vector<std::int64_t> large;
    std::copy_if(counts.begin(), counts.end(), std::back_inserter(large), [&](auto count) { return count >= least; });
    return large;
}

std::vector<std::int64_t> tuned_counts(const tune::Tuning& tuning) {
    std::vector<std::int64_t> counts;
    for (const tune::Row& row : tuning.rows) counts.push_back(row.tokens);
    for (const tune::Skipped& skipped : tuning.skipped) counts.push_back(skipped.tokens);
    std::sort(counts.begin(), counts.end());
    return counts;
}

constexpr int kRounds = 13;  ///< at most; for candidates that are all but equal
constexpr int kRoundsAgain = 7;
constexpr double kHopelessAgain = 2;  ///< a second tuning loses less time on who was far behind in the first
constexpr double kDropAgain = 0.1;
constexpr std::int64_t kLeastMany = 64;  ///< ranks of expert parallelism are judged from so many tokens on

/// Winners of each tuning by token count, the first tuning's for plans from now on.
std::vector<tune::Tuning> tune_often(Subject& subject, const TuneOptions& options, const Probed& probed, int times) {
    std::vector<tune::Tuning> tunings;
    tune::Options measurement = measurement_options(options);
    measurement.leave_out = probed.leave_out;
    measurement.max_rounds = kRounds;
    for (int i = 0; i < times; ++i) {
        tunings.push_back(subject.tune(options.buckets(), measurement, probed.contact));
        measurement.between = 0;  // the others are compared with it at the buckets
        measurement.hopeless = kHopelessAgain;
        measurement.first_round_drop = kDropAgain;
        measurement.max_rounds = kRoundsAgain;
    }
    if (!tunings.empty()) tune::install(tune::serialize(std::span(tunings).first(1)), "bench tuning");
    return tunings;
}

/// One of each tuning; none if no tuning came to the count. A tuning that left out what another one measured has an
/// empty name, which agrees with nobody.
std::vector<std::string> winners_at(const std::vector<tune::Tuning>& tunings, std::int64_t tokens) {
    std::vector<std::string> winners(tunings.size());
    bool any = false;
    for (std::size_t i = 0; i < tunings.size(); ++i)
        for (const tune::Row& row : tunings[i].rows)
            if (row.tokens == tokens) {
                winners[i] = row.variant;
                any = true;
            }
    return any ? winners : std::vector<std::string>{};
}

/// Shares of a case's time.
constexpr double kTuningShare = 0.2;  ///< each of three
constexpr double kExhaustiveShare = 0.4;
constexpr double kLeastSeconds = 1;  ///< of either, whatever else took
constexpr int kFewRounds = 5;        ///< that make an exhaustive measurement where time runs out
/// Who takes this share longer than the fastest after a round cannot be the best.
constexpr double kCannotBeBest = 0.3;

double now() { return tune::steady_clock().seconds(); }

double limited(double seconds, double share) { return seconds > 0 ? std::max(kLeastSeconds, share * seconds) : 0; }

/// Every candidate at the buckets and between them, in one run.
tune::Options exhaustive_options(const BenchOptions& bench, const TuneOptions& options, double seconds) {
    tune::Options exhaustive = measurement_options(options);
    exhaustive.first_round_drop = kCannotBeBest;
    exhaustive.between = 0;
    exhaustive.hopeless = kHopelessAgain;
    exhaustive.seconds = limited(seconds, kExhaustiveShare);
    exhaustive.min_rounds = std::min(kFewRounds, bench.rounds);
    exhaustive.max_rounds = bench.rounds;
    exhaustive.min_gain = 0;  // never settled early by how little there is to gain
    return exhaustive;
}

/// `seconds`: for everything, if above 0.
JudgedCase judge_case(const BenchOptions& bench, TuneOptions options, const TuneCase& one, double seconds) {
    const double begin = now();
    require_supported(one, options);
    if (options.doubling && options.tokens.empty() && one.moe_shape && one.moe_shape->local > 0)
        options.tokens = counts_from(kLeastMany, options.buckets());
    const Probed probed = first_contact(options, one);
    const std::unique_ptr<Subject> subject = make_subject(one, options);
    const double left = seconds > 0 ? std::max(kLeastSeconds, seconds - (now() - begin)) : 0;
    options.seconds = limited(left, kTuningShare);
    const auto tunings = tune_often(*subject, options, probed, bench.tunings);
    const std::vector<std::int64_t> buckets = options.buckets();
    std::vector<std::int64_t> counts = buckets;
    if (!tunings.empty()) counts = tuned_counts(tunings.front());
    const std::vector<std::int64_t> between = counts_between(counts);
    counts.insert(counts.end(), between.begin(), between.end());
    std::sort(counts.begin(), counts.end());
    tune::Options exhaustive = exhaustive_options(bench, options, left);
    exhaustive.leave_out = probed.leave_out;
    JudgedCase judged{.op = one.op, .shape = one.shape, .format = one.format};
    const tune::Tuning all = subject->tune(counts, exhaustive, probed.contact);
    for (const tune::Row& row : all.rows) {
        judged.rows.push_back(judge(row, subject->choice(row.tokens), winners_at(tunings, row.tokens)));
        Judged& last = judged.rows.back();
        last.op = one.op;
        last.shape = one.shape;
        last.format = one.format;
        last.between = !std::binary_search(buckets.begin(), buckets.end(), row.tokens);
    }
    judged.skipped = all.skipped;
    judged.seconds = now() - begin;
    return judged;
}

void print_claims(Table& table, const Verdict& verdict) {
    for (const Claim& claim : claims_of(verdict))
        table.note(fmt::format("{}  {}: {}", claim.pass ? "pass" : "MISS", claim.text, claim.found));
    table.note(fmt::format("the default takes {:+.1f}% of the time in all", 100.0 * verdict.gain));
}

void print_case(Table& table, const JudgedCase& judged) {
    for (const Judged& row : judged.rows) print(table, row);
    for (const tune::Skipped& skipped : judged.skipped)
        table.note(fmt::format("{} {}, {} tokens: not judged: {}", judged.shape, judged.format, skipped.tokens,
                               skipped.reason));
}

}  // namespace

int bench_tuning(const BenchOptions& bench) {
    Table table = judged_table();
    std::vector<std::pair<const TuneOptions*, TuneCase>> cases;
    for (const TuneOptions& options : bench.groups)
        for (TuneCase& one : tune_cases(options)) cases.emplace_back(&options, std::move(one));
    if (cases.empty()) invalid("bench tuning: nothing is to be judged");
    const std::string device = device_info(bench.groups.front().device).name;
    const double begin = now();
    std::vector<JudgedCase> all;
    for (std::size_t i = 0; i < cases.size(); ++i) {
        const auto& [options, one] = cases[i];
        table.progress(one.shape + " " + one.format);
        const double left = std::max(kLeastSeconds, bench.seconds - (now() - begin));
        const double share = bench.seconds > 0 ? left / static_cast<double>(cases.size() - i) : 0;
        try {
            all.push_back(judge_case(bench, *options, one, share));
            print_case(table, all.back());
        } catch (const Error& error) {
            if (error.code() != ErrorCode::unsupported && error.code() != ErrorCode::out_of_memory) throw;
            table.note(fmt::format("{} {}: {}", one.shape, one.format, error.what()));
        }
        if (!bench.out.empty()) write_text(bench.out, to_text(judged_json(all, device)));
    }
    const Verdict verdict = verdict_of(all);
    print_claims(table, verdict);
    return verdict.good() ? 0 : 1;
}

}  // namespace tokamak::cli::tuning
