// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cmath>
#include <cstdio>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "cli/commands.h"
#include "cli/common.h"
#include "cli/conformance/judge.h"
#include "core/build_info.h"

namespace tokamak::cli {
namespace {

using conformance::Case;
using conformance::Outcome;
using conformance::Verdict;
using nlohmann::json;

struct Options {
    std::string folder;
    std::string device = "cpu";
    std::string filter;
    std::string json_path;
    bool strict = false;
};

/// JSON has no infinities: they and NaN become text.
json number(double value) {
    if (std::isfinite(value)) return value;
    return fmt::format("{}", value);
}

std::string describe(const Verdict& verdict) {
    if (!verdict.reason.empty()) return printable(verdict.reason);
    if (verdict.worst.index < 0) return "nothing to compare";
    return fmt::format("worst {:.3g} of tolerance at {}: got {:.9g}, want {:.9g}", verdict.worst.ratio, verdict.where,
                       verdict.worst.got, verdict.worst.want);
}

json verdict_json(const Case& the_case, const Verdict& verdict) {
    json entry = {{"name", the_case.name}, {"op", the_case.op}, {"result", to_string(verdict.outcome)}};
    if (!verdict.reason.empty()) entry["reason"] = verdict.reason;
    if (verdict.worst.index >= 0)
        entry["worst"] = {{"where", verdict.where},
                          {"ratio", number(verdict.worst.ratio)},
                          {"got", number(verdict.worst.got)},
                          {"want", number(verdict.worst.want)}};
    return entry;
}

int check(const Options& options) {
    const Device device = usable_device(options.device);
    const std::vector<Case> cases = conformance::read_manifest(options.folder);
    std::map<Outcome, int> counts;
    json results = json::array();
    for (const Case& the_case : cases) {
        if (the_case.name.find(options.filter) == std::string::npos) continue;
        const Verdict verdict = conformance::judge(the_case, options.folder, device, options.strict);
        ++counts[verdict.outcome];
        fmt::print("{:<48} {:<7} {}\n", printable(the_case.name), to_string(verdict.outcome), describe(verdict));
        std::fflush(stdout);
        results.push_back(verdict_json(the_case, verdict));
    }
    if (results.empty()) fmt::print(stderr, "tokamak: no case matches\n");
    if (counts[Outcome::differs] > 0)
        fmt::print("{} differ where an implementation may choose\n", counts[Outcome::differs]);
    fmt::print("{} passed, {} failed, {} skipped\n", counts[Outcome::pass], counts[Outcome::fail],
               counts[Outcome::skip]);
    if (!options.json_path.empty())
        write_json(options.json_path, {{"tokamak", build_info::version()},
                                       {"commit", build_info::commit()},
                                       {"device", device_info(device).name},
                                       {"strict", options.strict},
                                       {"passed", counts[Outcome::pass]},
                                       {"failed", counts[Outcome::fail]},
                                       {"skipped", counts[Outcome::skip]},
                                       {"differs", counts[Outcome::differs]},
                                       {"cases", results}});
    return counts[Outcome::fail] > 0 ? 1 : 0;
}

}  // namespace

void add_check(CLI::App& app, int& status) {
    auto options = std::make_shared<Options>();
    CLI::App* command = app.add_subcommand(
        "check", "Run the conformance cases of a folder; succeeds only if none fails (docs/conformance.md)");
    command->add_option("DIR", options->folder, "Folder with manifest.json and safetensors files")->required();
    command->add_option("--device", options->device, "cpu, cuda or cuda:N")->capture_default_str();
    command->add_option("--filter", options->filter, "Only cases whose name contains this text");
    command->add_flag("--strict", options->strict,
                      "Use the suggested, tighter tolerances, and compare with float-accumulated results where given");
    command->add_option("--json", options->json_path, "Write the results to this file");
    command->callback([options, &status] { status = check(*options); });
}

}  // namespace tokamak::cli
