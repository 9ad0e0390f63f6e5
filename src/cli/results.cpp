// SPDX-License-Identifier: Apache-2.0
#include "cli/results.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <iterator>
#include <map>
#include <tuple>

#include "core/build_info.h"

namespace tokamak::cli {
namespace {

constexpr double kClearingShare = 0.01;
constexpr double kClearingUs = 1;

/// JSON has no NaN and no infinity: a failed comparison becomes null.
nlohmann::json number(double value) { return std::isfinite(value) ? nlohmann::json(value) : nlohmann::json(); }

/// Six significant digits: no clock is better, and files are half as long.
void round_numbers(nlohmann::json& value) {
    if (value.is_structured()) {
        for (nlohmann::json& element : value) round_numbers(element);
    } else if (value.is_number_float()) {
        value = std::strtod(fmt::format("{:.6g}", value.get<double>()).c_str(), nullptr);
    }
}

template <class T>
nlohmann::json optional_json(const std::optional<T>& value) {
    return value ? nlohmann::json(*value) : nlohmann::json();
}

void add_decode(nlohmann::json& json, const ResultRow& row) {
    const DecodeFacts& facts = *row.decode;
    json["source"] = facts.source;
    json["device_tokens"] = facts.device_tokens;
    json["floor_us"] = facts.floor_us;
    json["floor_share"] = row.timing.median > 0 ? number(facts.floor_us / row.timing.median) : nlohmann::json();
    json["must_us"] = optional_json(facts.must_us);
    json["aim_us"] = optional_json(facts.aim_us);
    json["best_public_us"] = optional_json(facts.best_public_us);
    json["best_public"] = facts.best_public.empty() ? nlohmann::json() : nlohmann::json(facts.best_public);
    json["launches"] = optional_json(facts.launches);
    json["correct"] = facts.correct;
    json["sm_mhz"] = facts.sm_mhz > 0 ? number(facts.sm_mhz) : nlohmann::json();
    if (facts.sustained_us) {
        json["sustained_us"] = *facts.sustained_us;
        json["sustained_mhz"] = number(facts.sustained_mhz);
    }
    if (!facts.tflops) return;
    json["default"] = facts.source != "option";
    json["tflops"] = *facts.tflops;
    json["matrix_share"] = optional_json(facts.matrix_share);
}

nlohmann::json row_json(const ResultRow& row) {
    nlohmann::json json = {{"op", row.op},
                           {"shape", row.shape},
                           {"format", row.format},
                           {"tokens", row.tokens},
                           {"routing", row.routing},
                           {"mode", row.mode},
                           {"variant", row.variant},
                           {"us_median", row.timing.median},
                           {"us_p10", row.timing.p10},
                           {"us_p90", row.timing.p90},
                           {"samples", row.timing.samples},
                           {"bytes", row.bytes},
                           {"flops", row.flops},
                           {"ceiling_share", optional_json(row.ceiling_share)},
                           {"max_error", number(row.max_error)},
                           {"error_norm", number(row.error_norm)},
                           {"checked_tokens", row.checked_tokens}};
    if (row.decode) add_decode(json, row);
    return json;
}

nlohmann::json host_json(const HostCost& cost) {
    return {{"op", cost.op},
            {"shape", cost.shape},
            {"format", cost.format},
            {"tokens", cost.tokens},
            {"us_median", cost.timing.median},
            {"us_p10", cost.timing.p10},
            {"us_p90", cost.timing.p90},
            {"launches", cost.launches},
            {"launch_us", cost.launch_us},
            {"must_us", cost.must_us}};
}

nlohmann::json repeat_json(const Repeat& repeat) {
    return {{"op", repeat.op},           {"shape", repeat.shape}, {"format", repeat.format},  {"tokens", repeat.tokens},
            {"variant", repeat.variant}, {"us", repeat.us},       {"spread", repeat.spread()}};
}

nlohmann::json rise_json(const Rise& rise) {
    return {{"op", rise.op},         {"shape", rise.shape},   {"format", rise.format},
            {"before", rise.before}, {"tokens", rise.tokens}, {"rise", rise.rise}};
}

nlohmann::json clearing_json(const ClearingCost& cost) {
    return {{"op", cost.op},
            {"shape", cost.shape},
            {"format", cost.format},
            {"tokens", cost.tokens},
            {"rows", cost.rows},
            {"variant", cost.variant},
            {"us", cost.us},
            {"us_without", cost.us_without},
            {"more", cost.more},
            {"more_low", cost.more_low},
            {"more_high", cost.more_high},
            {"allowed", cost.allowed()},
            {"pairs", cost.pairs},
            {"correct", cost.correct}};
}

nlohmann::json routing_json(const RoutingCost& cost) {
    return {{"op", cost.op},
            {"shape", cost.shape},
            {"format", cost.format},
            {"tokens", cost.tokens},
            {"max_tokens", cost.max_tokens},
            {"method", cost.method},
            {"variant", cost.variant},
            {"us", cost.us},
            {"us_from_ids", cost.us_from_ids},
            {"more_us", cost.more_us},
            {"more_low", cost.more_low},
            {"more_high", cost.more_high},
            {"must_us", optional_json(cost.must_us)},
            {"launches", cost.launches},
            {"pairs", cost.pairs},
            {"correct", cost.correct}};
}

}  // namespace

double ClearingCost::allowed() const noexcept {
    return std::max(kClearingShare, us_without > 0 ? kClearingUs / us_without : 0.0);
}

double Repeat::spread() const noexcept {
    if (us.empty()) return 0;
    const auto [least, most] = std::minmax_element(us.begin(), us.end());
    return *least > 0 ? *most / *least - 1.0 : 0;
}

std::vector<Rise> rises_of(const std::vector<ResultRow>& rows, double noise) {
    std::map<std::tuple<std::string, std::string, std::string>, std::map<std::int64_t, double>> times;
    for (const ResultRow& row : rows)
        if (row.mode == "graph" && row.routing == "uniform" && row.tokens > 0)
            times[{row.op, row.shape, row.format}][row.tokens] = row.timing.median / static_cast<double>(row.tokens);
    std::vector<Rise> rises;
    for (const auto& [what, by_tokens] : times)
        for (auto next = by_tokens.begin(); next != by_tokens.end(); ++next) {
            if (next == by_tokens.begin()) continue;
            const auto before = std::prev(next);
            const double rise = next->second / before->second - 1.0;
            if (rise <= noise) continue;
            rises.push_back(
                {std::get<0>(what), std::get<1>(what), std::get<2>(what), before->first, next->first, rise});
        }
    return rises;
}

nlohmann::json to_json(const Results& results) {
    nlohmann::json document = {{"tokamak", build_info::version()},
                               {"commit", build_info::commit()},
                               {"device", results.device},
                               {"ceilings", results.ceilings},
                               {"rows", nlohmann::json::array()}};
    for (const ResultRow& row : results.rows) document["rows"].push_back(row_json(row));
    if (results.benchmark.empty()) return document;
    document["benchmark"] = results.benchmark;
    document["cuda_sources"] = build_info::cuda_sources_hash();
    document["read_floors"] = results.read_floors;
    document["refused"] = nlohmann::json::array();
    for (const Refusal& refusal : results.refused)
        document["refused"].push_back(
            {{"op", refusal.op}, {"shape", refusal.shape}, {"format", refusal.format}, {"reason", refusal.reason}});
    document["host"] = nlohmann::json::array();
    for (const HostCost& cost : results.host) document["host"].push_back(host_json(cost));
    if (!results.clearing.empty()) document["clearing"] = nlohmann::json::array();
    for (const ClearingCost& cost : results.clearing) document["clearing"].push_back(clearing_json(cost));
    if (!results.from_logits.empty()) document["from_logits"] = nlohmann::json::array();
    for (const RoutingCost& cost : results.from_logits) document["from_logits"].push_back(routing_json(cost));
    if (results.repeats.empty()) return document;
    document["repeats"] = nlohmann::json::array();
    for (const Repeat& repeat : results.repeats) document["repeats"].push_back(repeat_json(repeat));
    document["rises"] = nlohmann::json::array();
    for (const Rise& rise : results.rises) document["rises"].push_back(rise_json(rise));
    return document;
}

std::string to_text(const nlohmann::json& document) {
    nlohmann::json rounded = document;
    round_numbers(rounded);
    constexpr auto replace = nlohmann::json::error_handler_t::replace;
    std::string text = "{";
    for (const auto& [key, value] : rounded.items()) {
        text += fmt::format("{}\n {}: ", text.size() > 1 ? "," : "", nlohmann::json(key).dump());
        if (!value.is_array() || value.empty()) {
            text += value.dump(-1, ' ', false, replace);
            continue;
        }
        for (std::size_t i = 0; i < value.size(); ++i)
            text += (i == 0 ? "[\n  " : ",\n  ") + value[i].dump(-1, ' ', false, replace);
        text += "]";
    }
    return text + "\n}\n";
}

}  // namespace tokamak::cli
