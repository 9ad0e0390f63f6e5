// SPDX-License-Identifier: Apache-2.0
#include "cli/tuning/bench.h"

#include <fmt/format.h>

#include <algorithm>

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

/// Winners of each tuning by token count, the first tuning's for plans from now on.
std::vector<tune::Tuning> tune_often(Subject& subject, const TuneOptions& options, const Contact& contact, int times) {
    std::vector<tune::Tuning> tunings;
    for (int i = 0; i < times; ++i)
        tunings.push_back(subject.tune(options.buckets(), measurement_options(options), contact));
    if (!tunings.empty()) tune::install(tune::serialize(std::span(tunings).first(1)), "bench tuning");
    return tunings;
}

std::vector<std::string> winners_at(const std::vector<tune::Tuning>& tunings, std::int64_t tokens) {
    std::vector<std::string> winners;
    for (const tune::Tuning& tuning : tunings)
        for (const tune::Row& row : tuning.rows)
            if (row.tokens == tokens) winners.push_back(row.variant);
    return winners;
}

std::vector<Judged> judge_case(const BenchOptions& bench, const TuneOptions& options, const TuneCase& one) {
    require_supported(one, options);
    const Contact contact = first_contact(options, one);
    const std::unique_ptr<Subject> subject = make_subject(one, options);
    const auto tunings = tune_often(*subject, options, contact, bench.tunings);
    const std::vector<std::int64_t> buckets = options.buckets();
    const std::vector<std::int64_t> between = counts_between(buckets);
    std::vector<std::int64_t> counts = buckets;
    counts.insert(counts.end(), between.begin(), between.end());
    std::sort(counts.begin(), counts.end());
    tune::Options exhaustive = measurement_options(options);
    exhaustive.first_round_drop = 0;
    exhaustive.hopeless = 0;
    exhaustive.seconds = 0;
    exhaustive.min_rounds = exhaustive.max_rounds = bench.rounds;  // nobody is dropped on the way
    std::vector<Judged> rows;
    for (const tune::Row& row : subject->tune(counts, exhaustive, contact).rows) {
        const bool is_between = std::binary_search(between.begin(), between.end(), row.tokens);
        rows.push_back(judge(row, subject->choice(row.tokens), winners_at(tunings, row.tokens)));
        rows.back().op = one.op;
        rows.back().shape = one.shape;
        rows.back().format = one.format;
        rows.back().between = is_between;
    }
    return rows;
}

void print_verdict(Table& table, const Verdict& verdict) {
    table.note(fmt::format("buckets within 2% of the best: {} of {}; counts between within 5%: {} of {}",
                           verdict.buckets_within, verdict.buckets, verdict.between_within, verdict.between));
    table.note(
        fmt::format("tunings within 2% of one another: {} of {} buckets; slower than the default: {}; the default "
                    "takes {:+.1f}% of the time in all",
                    verdict.agreeing, verdict.buckets, verdict.slower_than_fallback, 100.0 * verdict.gain));
}

}  // namespace

int bench_tuning(const BenchOptions& bench) {
    Table table = judged_table();
    std::vector<Judged> all;
    std::string device;
    for (const TuneOptions& options : bench.operators) {
        device = device_info(options.device).name;
        for (const TuneCase& one : tune_cases(options)) {
            table.progress(one.shape + " " + one.format);
            try {
                for (Judged& row : judge_case(bench, options, one)) {
                    print(table, row);
                    all.push_back(std::move(row));
                }
            } catch (const Error& error) {
                if (error.code() != ErrorCode::unsupported && error.code() != ErrorCode::out_of_memory) throw;
                table.note(fmt::format("{} {}: {}", one.shape, one.format, error.what()));
            }
            if (!bench.out.empty()) write_text(bench.out, to_text(judged_json(all, device)));
        }
    }
    const Verdict verdict = verdict_of(all);
    print_verdict(table, verdict);
    return verdict.good() ? 0 : 1;
}

}  // namespace tokamak::cli::tuning
