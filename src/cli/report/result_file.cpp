// SPDX-License-Identifier: Apache-2.0
#include "cli/report/result_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <tuple>

#include "core/throw.h"

namespace tokamak::cli::report {
namespace {

using nlohmann::json;

const json& member(const json& object, const char* name) {
    static const json nothing;
    const auto found = object.find(name);
    return found == object.end() ? nothing : *found;
}

std::optional<double> number(const json& object, const char* name) {
    const json& value = member(object, name);
    if (!value.is_number()) return std::nullopt;
    const double given = value.get<double>();
    // Wide enough for bytes and FLOPs, narrow enough for the arithmetic of axes.
    if (!std::isfinite(given) || given < 1e-12 || given > 1e18) return std::nullopt;
    return given;
}

std::string text(const json& object, const char* name) {
    const json& value = member(object, name);
    return value.is_string() ? value.get<std::string>() : std::string();
}

/// Whether the row shows what a user gets: the benchmarks before `source` existed said `chosen` or `default`.
bool is_automatic(const json& row) {
    for (const char* name : {"chosen", "default"})
        if (member(row, name).is_boolean()) return member(row, name).get<bool>();
    return text(row, "source") != "option";
}

std::optional<double> floor_of(const json& row, std::optional<double> read_gbps) {
    for (const char* name : {"floor_us", "read_us"})
        if (const auto given = number(row, name)) return given;
    const auto bytes = number(row, "bytes");
    if (!bytes || !read_gbps) return std::nullopt;
    return *bytes / *read_gbps * 1e-3;
}

std::optional<Row> read_row(const json& object, std::optional<double> read_gbps) {
    const auto tokens = number(object, "tokens");
    const auto us = number(object, "us_median");
    if (!tokens || !us) return std::nullopt;
    Row row;
    row.tokens = *tokens;
    row.device_tokens = number(object, "device_tokens").value_or(*tokens);
    row.us = *us;
    row.p10 = number(object, "us_p10");
    row.p90 = number(object, "us_p90");
    row.mode = text(object, "mode");
    row.variant = text(object, "variant");
    row.source = text(object, "source");
    row.automatic = is_automatic(object);
    row.bytes = number(object, "bytes");
    row.flops = number(object, "flops");
    row.floor_us = floor_of(object, read_gbps);
    row.must_us = number(object, "must_us");
    row.aim_us = number(object, "aim_us");
    row.public_us = number(object, "best_public_us");
    row.default_us = number(object, "default_us");
    row.public_name = text(object, "best_public");
    row.ceiling_share = number(object, "ceiling_share");
    row.error = number(object, "max_error");
    return row;
}

void read_ceilings(ResultFile& file, const json& ceilings) {
    if (!ceilings.is_object()) return;
    file.read_gbps = number(ceilings, "read_gbps");
    file.bf16_tflops = number(ceilings, "bf16_tflops_sustained");
    file.fp8_tflops = number(ceilings, "fp8_tflops_sustained");
    if (file.read_gbps) file.facts.push_back({"read ceiling", fmt::format("{:.0f} GB/s", *file.read_gbps)});
    if (file.bf16_tflops)
        file.facts.push_back({"bf16 ceiling, sustained", fmt::format("{:.0f} TFLOP/s", *file.bf16_tflops)});
    if (file.fp8_tflops)
        file.facts.push_back({"fp8 ceiling, sustained", fmt::format("{:.0f} TFLOP/s", *file.fp8_tflops)});
    if (const std::string source = text(ceilings, "source"); !source.empty())
        file.facts.push_back({"source of the ceilings", source});
}

int rank_of_mode(const std::string& mode) {
    if (mode == "owning") return 0;
    if (mode == "workspace") return 1;
    return mode == "graph" ? 2 : 3;
}

auto order_of(const Row& row) {
    return std::tuple(rank_of_mode(row.mode), row.mode, !row.automatic, row.automatic ? std::string() : row.variant,
                      row.captured_larger(), row.device_tokens, row.us);
}

}  // namespace

std::optional<double> Row::floor_share() const noexcept {
    if (!floor_us) return std::nullopt;
    return *floor_us / us;
}

std::string Group::name() const {
    std::string name;
    for (const std::string& part : {shape, format, routing})
        if (!part.empty()) name += (name.empty() ? "" : " · ") + part;
    return name.empty() ? "unnamed" : name;
}

std::string Group::title() const { return op.empty() ? name() : op + " · " + name(); }

std::vector<std::string> Group::modes() const {
    std::vector<std::string> modes;
    for (const Row& row : rows)  // sorted by mode
        if (row.automatic && (modes.empty() || modes.back() != row.mode)) modes.push_back(row.mode);
    return modes;
}

std::string Group::main_mode() const {
    const std::vector<std::string> all = modes();
    if (std::find(all.begin(), all.end(), "graph") != all.end()) return "graph";
    if (!all.empty()) return all.back();
    return rows.empty() ? std::string() : rows.back().mode;
}

ResultFile read_results(const json& document, const std::string& name) {
    if (!document.is_object()) fail(ErrorCode::parse, "{}: not a benchmark result: expected a JSON object", name);
    const json& rows = member(document, "rows");
    if (!rows.is_array() && !rows.is_null())
        fail(ErrorCode::parse, "{}: not a benchmark result: `rows` is no list", name);
    ResultFile file;
    const std::string benchmark = text(document, "benchmark");
    file.name = benchmark.empty() ? name : benchmark;
    for (const char* fact : {"device", "tokamak", "commit", "cuda_sources"})
        if (const std::string value = text(document, fact); !value.empty()) file.facts.push_back({fact, value});
    read_ceilings(file, member(document, "ceilings"));
    std::map<std::tuple<std::string, std::string, std::string, std::string>, std::size_t> places;
    for (const json& object : rows) {
        const auto row = object.is_object() ? read_row(object, file.read_gbps) : std::nullopt;
        if (!row) {
            ++file.skipped;
            continue;
        }
        const std::tuple key(text(object, "op"), text(object, "shape"), text(object, "format"),
                             text(object, "routing"));
        const auto [place, added] = places.emplace(key, file.groups.size());
        if (added) file.groups.push_back({std::get<0>(key), std::get<1>(key), std::get<2>(key), std::get<3>(key), {}});
        file.groups[place->second].rows.push_back(*row);
    }
    for (Group& group : file.groups)
        std::stable_sort(group.rows.begin(), group.rows.end(),
                         [](const Row& a, const Row& b) { return order_of(a) < order_of(b); });
    return file;
}

}  // namespace tokamak::cli::report
