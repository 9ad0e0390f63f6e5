// SPDX-License-Identifier: Apache-2.0
#include "cli/bench/report.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "cli/conformance/compare.h"

namespace tokamak::cli::bench {
namespace {

constexpr std::uint8_t kPoison = 0xFF;  ///< NaN in every floating-point type

std::vector<Column> columns() {
    return {{"shape", 18, true}, {"format", 9, true}, {"tokens", 6},  {"mode", 9, true},   {"variant", 10, true},
            {"median us", 11},   {"p10 us", 11},      {"p90 us", 11}, {"GB/s", 7},         {"GFLOP/s", 8},
            {"error", 8},        {"largest", 8},      {"checked", 8}, {"verdict", 7, true}};
}

std::string microseconds(double value) { return fmt::format("{:.1f}", value); }

bool same_bits(const Tensor& a, const Tensor& b) {
    const OwnedTensor first = OwnedTensor::copy_of(a);
    const OwnedTensor second = OwnedTensor::copy_of(b);
    return first.view().bytes() == second.view().bytes() &&
           std::memcmp(first.view().data, second.view().data, first.view().bytes()) == 0;
}

}  // namespace

Distance distance(const Tensor& result, const Tensor& reference) {
    double error_square = 0;
    double square = 0;
    double largest_error = 0;
    double largest = 0;
    for (std::int64_t i = 0; i < reference.elements(); ++i) {
        const double want = reference.as<double>()[i];
        const double error = std::fabs(conformance::element(result, i) - want);
        error_square += error * error;
        square += want * want;
        largest_error = std::max(largest_error, error);
        largest = std::max(largest, std::fabs(want));
    }
    constexpr double nan = std::numeric_limits<double>::quiet_NaN();
    if (!std::isfinite(error_square) || !std::isfinite(square)) return {nan, nan};
    if (square == 0) return error_square == 0 ? Distance{} : Distance{nan, nan};
    return {std::sqrt(error_square / square), largest_error / largest};
}

Report::Report(const Settings& settings) : settings_(settings), table_(columns()) {
    results_.device = device_info(settings.device).name;
}

void Report::add_row(ResultRow row, const std::string& verdict) {
    const double seconds = row.timing.median * 1e-6;
    table_.row({row.shape, row.format, std::to_string(row.tokens), row.mode, row.variant,
                microseconds(row.timing.median), microseconds(row.timing.p10), microseconds(row.timing.p90),
                fmt::format("{:.2f}", row.bytes / seconds * 1e-9), fmt::format("{:.1f}", row.flops / seconds * 1e-9),
                fmt::format("{:.1e}", row.error_norm), fmt::format("{:.1e}", row.max_error),
                fmt::format("{}/{}", row.checked_tokens, row.tokens), verdict});
    results_.rows.push_back(std::move(row));
}

void Report::measure(const Measured& measured) {
    const Device device = settings_.device;
    fill_bytes(measured.out.data, device, kPoison, measured.out.bytes());
    fill_bytes(measured.workspace.data, device, kPoison, measured.workspace.bytes);
    measured.preallocated();
    synchronize(device);
    const OwnedTensor result = OwnedTensor::copy_of(measured.out);
    const bool equal = same_bits(measured.owning(), result);
    const Distance error = distance(result, measured.reference);
    const bool good = equal && error.within(measured.limit);
    if (!good) ++failures_;
    const std::string verdict = good ? "ok" : (equal ? "ERROR" : "BITS");

    ResultRow row = measured.row;
    row.error_norm = error.norm;
    row.max_error = error.largest;
    row.checked_tokens = measured.reference.size(0);
    row.mode = "owning";
    row.timing = measure_calls([&] { static_cast<void>(measured.owning()); }, settings_.limits);
    add_row(row, verdict);
    row.mode = "workspace";
    row.timing = measure_calls(
        [&] {
            measured.preallocated();
            synchronize(device);
        },
        settings_.limits);
    add_row(row, verdict);
    if (!equal) note(fmt::format("{}: the two modes gave different bits", row.shape));
    if (!error.within(measured.limit))
        note(fmt::format("{}: error {:.2e} (largest {:.2e}), allowed are {:.2e} ({:.2e})", row.shape, error.norm,
                         error.largest, measured.limit.norm, measured.limit.largest));
}

}  // namespace tokamak::cli::bench
