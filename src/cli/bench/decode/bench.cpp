// SPDX-License-Identifier: Apache-2.0
#include "cli/bench/decode/bench.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
#include <thread>

#include "cli/bench/decode/kernels.h"
#include "cli/bench/decode/targets.h"
#include "cli/common.h"
#include "cuda/ceilings/ceilings.h"

namespace tokamak::cli::bench {
namespace {

constexpr std::uint8_t kPoison = 0xFF;  ///< NaN in every floating-point type
constexpr int kHostCalls = 200;
constexpr int kHostWarmups = 20;
constexpr std::int64_t kJudgedClearingRows = 128;  ///< of an expert, from which on clearing must not show
constexpr double kEndless = std::numeric_limits<double>::infinity();
constexpr double kSustainedMs = 300;  ///< without a rest; the last third counts
constexpr int kPairs = 61;

std::vector<Column> columns() {
    return {{"op", 16, true},  {"shape", 14, true}, {"format", 13, true}, {"tokens", 6}, {"routing", 11, true},
            {"mode", 9, true}, {"us", 8},           {"floor", 8},         {"share", 6},  {"must", 6},
            {"error", 8},      {"", 5, true},       {"variant", 20, true}};
}

double now_ms() {
    return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

double median(std::vector<double> values) { return summarize(std::move(values)).median; }

std::string optional_us(const std::optional<double>& us) { return us ? fmt::format("{:g}", *us) : ""; }

}  // namespace

std::vector<double> PairTimes::differences() const {
    std::vector<double> values;
    for (std::size_t i = 0; i < first.size(); ++i) values.push_back(first[i] - second[i]);
    return values;
}

DecodeBench::DecodeBench(const DecodeOptions& options, const std::string& benchmark)
    : options_(options), l2_bytes_(device_info(options.device).l2_bytes), meter_(options.device), table_(columns()) {
    results_.benchmark = benchmark;
    results_.device = device_info(options.device).name;
    measure_ceilings();
}

void DecodeBench::measure_ceilings() {
    const auto say = [this](const std::string& what) { progress("ceilings: " + what); };
    const ceilings::Ceilings measured = ceilings::measure({.device = options_.device.index,
                                                           .sustained_seconds = 0.6,
                                                           .launches = false,
                                                           .burst_rest_seconds = kMostRestMs * 1e-3,
                                                           .progress = say});
    read_gbps_ = measured.read_gbps;
    copy_gbps_ = measured.copy_gbps;
    bf16_tflops_ = measured.bf16_tflops_sustained;
    fp8_tflops_ = measured.fp8_tflops_sustained;
    pace_.worked(now_ms(), kMostRestMs);
    results_.ceilings = {{"read_gbps", read_gbps_},
                         {"copy_gbps", copy_gbps_},
                         {"bf16_tflops_rested", measured.bf16_tflops_burst},
                         {"bf16_tflops_sustained", bf16_tflops_},
                         {"fp8_tflops_rested", measured.fp8_tflops_burst},
                         {"fp8_tflops_sustained", fp8_tflops_},
                         {"source", measured.matrix_source}};
    std::vector<FloorCurve::Point> points;
    for (const ceilings::ReadFloor& floor : measured.read_floors) {
        points.push_back({floor.bytes, floor.us, floor.kernel});
        results_.read_floors.push_back({{"bytes", floor.bytes},
                                        {"us", floor.us},
                                        {"gbps", static_cast<double>(floor.bytes) / floor.us * 1e-3},
                                        {"kernel", floor.kernel}});
    }
    floors_ = FloorCurve(std::move(points), read_gbps_);
}

void DecodeBench::judge(const Subject& subject, const Tensor& out, ResultRow& row) {
    const Distance error = subject.check(out);
    row.max_error = error.largest;
    row.error_norm = error.norm;
    row.checked_tokens = subject.checked_tokens;
    row.decode->correct = error.within(subject.limit);
}

void DecodeBench::rest() const {
    std::this_thread::sleep_for(std::chrono::duration<double, std::milli>(pace_.due(now_ms())));
}

Timing DecodeBench::time_paced(const std::function<void()>& work, int calls, double most_us, DecodeFacts& facts) {
    const auto busy_ms = [&](double us) { return 1e-3 * std::min(us, most_us * calls); };
    const double once = cuda::time_once(stream_, work);
    pace_.worked(now_ms(), 2 * busy_ms(once));  // the run that was checked too
    const auto wanted = static_cast<std::size_t>(replays_for(once));
    std::vector<double> samples;
    std::vector<double> clocks;
    while (samples.size() < wanted) {
        rest();
        double busy = 0;
        while (once < kWarmMs * 1e3 && busy < kWarmMs) busy += busy_ms(cuda::time_once(stream_, work));
        meter_.begin(stream_.stream());
        for (const double end = busy + kStretchMs; samples.size() < wanted && busy < end;) {
            samples.push_back(cuda::time_once(stream_, work));
            busy += busy_ms(samples.back());
        }
        meter_.end(stream_.stream());
        synchronize(device(), stream_.stream());
        pace_.worked(now_ms(), busy);
        clocks.push_back(meter_.mhz());
    }
    facts.sm_mhz = median(clocks);
    for (double& sample : samples) sample /= calls;
    return summarize(std::move(samples));
}

PairTimes DecodeBench::time_pairs(const cuda::CapturedGraph& first, const cuda::CapturedGraph& second, int calls) {
    PairTimes times;
    double busy = 0;
    // Behind one of the same graph, as replays are timed everywhere: the first one behind another graph takes 10 to 25
    // us more, and pairs in turn would mostly compare one state with the other.
    const auto replay = [&](const cuda::CapturedGraph& graph) {
        double us = 0;
        for (int i = 0; i < 2; ++i) {
            us = cuda::time_once(stream_, [&] { graph.replay(); });
            busy += 1e-3 * us;
        }
        return us / calls;
    };
    while (times.first.size() < kPairs) {
        rest();
        busy = 0;
        while (busy < kWarmMs) static_cast<void>(replay(first)), static_cast<void>(replay(second));
        for (const double end = busy + kStretchMs; times.first.size() < kPairs && busy < end;) {
            const bool swapped = times.first.size() % 2 == 1;
            if (swapped) times.second.push_back(replay(second));
            times.first.push_back(replay(first));
            if (!swapped) times.second.push_back(replay(second));
        }
        pace_.worked(now_ms(), busy);
    }
    return times;
}

void DecodeBench::time_sustained(const std::function<void()>& work, int calls, DecodeFacts& facts) {
    std::vector<double> last;
    const double begin = now_ms();
    bool counts = false;
    while (now_ms() < begin + kSustainedMs || last.empty()) {
        if (!counts && now_ms() >= begin + kSustainedMs * 2 / 3) {
            meter_.begin(stream_.stream());
            counts = true;
        }
        const double us = cuda::time_once(stream_, work);
        if (counts) last.push_back(us / calls);
    }
    meter_.end(stream_.stream());
    synchronize(device(), stream_.stream());
    pace_.worked(now_ms(), kMostRestMs);
    facts.sustained_us = median(last);
    facts.sustained_mhz = meter_.mhz();
}

Timing DecodeBench::time_eager(const Subject& subject, int calls, ResultRow& row) {
    const Stream stream = stream_.stream();
    OwnedTensor last;
    const auto loop = [&] {
        for (int set = calls - 1; set >= 0; --set) {
            if (subject.mode == Mode::owning)
                last = subject.owning(set, stream);
            else
                subject.preallocated(set, stream);
        }
    };
    loop();
    synchronize(device(), stream);
    judge(subject, subject.mode == Mode::owning ? last.view() : subject.out, row);
    // Who allocates leaves the device idle most of the time.
    const double most_us = subject.mode == Mode::owning ? std::max(1.0, 2 * row.decode->floor_us) : kEndless;
    return time_paced(loop, calls, most_us, *row.decode);
}

Timing DecodeBench::time(const Subject& subject, int calls, ResultRow& row) {
    fill_bytes(subject.out.data, device(), kPoison, subject.out.bytes(), stream_.stream());
    if (subject.workspace.bytes > 0)
        fill_bytes(subject.workspace.data, device(), kPoison, subject.workspace.bytes, stream_.stream());
    if (subject.mode != Mode::graph) return time_eager(subject, calls, row);
    const cuda::CapturedGraph graph(stream_, [&] {
        for (int set = calls - 1; set >= 0; --set) subject.preallocated(set, stream_.stream());
    });
    row.decode->launches = static_cast<double>(graph.nodes()) / calls;
    graph.replay();
    synchronize(device(), stream_.stream());
    judge(subject, subject.out, row);
    const auto replay = [&] { graph.replay(); };
    const Timing timing = time_paced(replay, calls, kEndless, *row.decode);
    if (subject.sustained) time_sustained(replay, calls, *row.decode);
    return timing;
}

ResultRow DecodeBench::measured(const Subject& subject) {
    ResultRow row = subject.row;
    row.mode = to_string(subject.mode);
    if (subject.flops) row.flops = subject.flops(1);
    const auto arithmetic = [&] { return subject.matrix_tflops > 0 ? row.flops / subject.matrix_tflops * 1e-6 : 0.0; };
    const auto ideal = [&](double bytes) { return std::max(bytes / read_gbps_ * 1e-3, arithmetic()); };
    const double first = subject.bytes(1);
    const int calls = calls_per_replay(first, std::max(ideal(first), floors_.us(first)), l2_bytes_, subject.most_calls);
    row.bytes = subject.bytes(calls);
    if (subject.flops) row.flops = subject.flops(calls);
    row.decode->floor_us = floors_.us(row.bytes);
    if (subject.many_tokens) row.decode->floor_us = std::max(row.decode->floor_us, arithmetic());
    row.timing = time(subject, calls, row);
    row.ceiling_share = ideal(row.bytes) / row.timing.median;
    if (subject.many_tokens) {
        row.decode->tflops = row.flops / row.timing.median * 1e-6;
        row.decode->matrix_share = arithmetic() / row.timing.median;
    }
    return row;
}

void DecodeBench::measure(const Subject& subject) { add(measured(subject)); }

double DecodeBench::measure_again(const Subject& subject) {
    const ResultRow row = measured(subject);
    if (!row.decode->correct) ++failures_;
    return row.timing.median;
}

void DecodeBench::add(ResultRow row) {
    const DecodeFacts& facts = *row.decode;
    if (!facts.correct) ++failures_;
    const std::string tokens = facts.device_tokens == row.tokens
                                   ? std::to_string(row.tokens)
                                   : fmt::format("{}/{}", facts.device_tokens, row.tokens);
    table_.row({row.op, row.shape, row.format, tokens, row.routing, row.mode, fmt::format("{:.2f}", row.timing.median),
                fmt::format("{:.2f}", facts.floor_us),
                fmt::format("{:.1f}%", 100.0 * facts.floor_us / row.timing.median), optional_us(facts.must_us),
                fmt::format("{:.1e}", row.error_norm), facts.correct ? "" : "WRONG", row.variant});
    results_.rows.push_back(std::move(row));
}

void DecodeBench::add_clearing(ClearingCost cost) {
    if (!cost.correct) ++failures_;
    pace_.worked(now_ms(), kMostRestMs);  // pairs are replayed without rests
    note(fmt::format(
        "{} {} {}, {} tokens ({} rows): clearing takes {:+.2f}% ({:+.2f} to {:+.2f}) of {:.1f} us, {:.2f}% {}{}",
        cost.shape, cost.format, cost.variant, cost.tokens, cost.rows, 100.0 * cost.more, 100.0 * cost.more_low,
        100.0 * cost.more_high, cost.us_without, 100.0 * cost.allowed(),
        cost.rows < kJudgedClearingRows ? "would be allowed" : "is allowed", cost.correct ? "" : ": WRONG"));
    results_.clearing.push_back(std::move(cost));
}

void DecodeBench::add_routing(RoutingCost cost) {
    if (!cost.correct) ++failures_;
    note(fmt::format(
        "{} {} {}, {} tokens from logits ({}): {:.2f} us, {:+.2f} ({:+.2f} to {:+.2f}) to {:.2f} from ids{}{}",
        cost.shape, cost.format, cost.variant, cost.tokens, cost.method, cost.us, cost.more_us, cost.more_low,
        cost.more_high, cost.us_from_ids, cost.must_us ? fmt::format(", at most {:+.1f} is due", *cost.must_us) : "",
        cost.correct ? "" : ": WRONG"));
    results_.from_logits.push_back(std::move(cost));
}

Timing DecodeBench::time_host(const std::function<void()>& call) {
    using Clock = std::chrono::steady_clock;
    for (int i = 0; i < kHostWarmups; ++i) call();
    synchronize(device(), stream_.stream());
    std::vector<double> samples;
    for (int i = 0; i < kHostCalls; ++i) {
        const auto start = Clock::now();
        call();
        samples.push_back(std::chrono::duration<double, std::micro>(Clock::now() - start).count());
    }
    synchronize(device(), stream_.stream());
    return summarize(std::move(samples));
}

void DecodeBench::measure_host(const Subject& subject) {
    const Stream stream = stream_.stream();
    const cuda::CapturedGraph graph(stream_, [&] { subject.bare(stream); });
    HostCost cost;
    cost.op = subject.row.op;
    cost.shape = subject.row.shape;
    cost.format = subject.row.format;
    cost.tokens = subject.row.tokens;
    cost.launch_us = time_host([&] { launch_empty(stream); }).median;
    cost.timing = time_host([&] { subject.bare(stream); });
    pace_.worked(now_ms(), kMostRestMs);
    cost.launches = static_cast<double>(graph.nodes());
    cost.must_us = host_target(cost.launches);
    note(fmt::format(
        "{} {} {}: run() costs the host {:.2f} us for {} launches, at most {:.1f} is due; an empty kernel {:.2f}",
        cost.op, cost.shape, cost.format, cost.timing.median, cost.launches, cost.must_us, cost.launch_us));
    results_.host.push_back(std::move(cost));
}

void DecodeBench::refuse(const std::string& op, const std::string& shape, const std::string& format,
                         const std::string& reason) {
    note(fmt::format("{} {} {}: refused: {}", op, shape, format, reason));
    results_.refused.push_back({op, shape, format, reason});
}

void DecodeBench::save() const {
    if (!options_.out.empty()) write_text(options_.out, to_text(to_json(results_)));
}

}  // namespace tokamak::cli::bench
