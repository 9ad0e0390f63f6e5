// SPDX-License-Identifier: Apache-2.0
#include "cli/tuning/command.h"

#include <CLI/CLI.hpp>
#include <memory>
#include <string>
#include <utility>

#include "cli/common.h"
#include "cli/number_check.h"
#include "cli/tuning/bench.h"
#include "cli/tuning/run.h"
#include "core/throw.h"

namespace tokamak::cli::tuning {
namespace {

constexpr double kAllSeconds = 600;  ///< all shapes of the benchmarks: with 150 the judge got to 80 of 534 buckets

/// Moves by a step whenever it is looked at: all samples on a CPU are the same, however busy the machine is.
class StepClock : public tune::Clock {
  public:
    explicit StepClock(double step) : step_(step) {}
    double seconds() override { return now_ += step_; }

  private:
    double step_;
    double now_ = 0;
};

/// `tune all` has the options that both operators share.
struct Parsed {
    TuneOptions options;
    Outputs outputs;
    std::string device = "cuda";
    std::string probe;
    double clock_step = 0;
    bool shared_process = false;
};

/// Names are checked before a device is asked for.
std::vector<TuneOptions> checked_groups(const std::string& op, const TuneOptions& common, const std::string& device) {
    std::vector<TuneOptions> groups = tune_groups(op, common);
    for (const TuneOptions& options : groups) static_cast<void>(tune_cases(options));
    for (TuneOptions& options : groups) options.device = usable_device(device);
    return groups;
}

int run(Parsed parsed) {
    parsed.options.isolate = !parsed.shared_process;
    if (parsed.clock_step > 0) parsed.options.clock = std::make_shared<StepClock>(parsed.clock_step);
    const std::vector<TuneOptions> groups = checked_groups(parsed.options.op, parsed.options, parsed.device);
    return parsed.probe.empty() ? run_tuning(groups, parsed.outputs) : run_probe(groups.front(), parsed.probe);
}

void add_sizes(CLI::App& command, TuneOptions& options, const std::map<std::string, std::string>& texts) {
    for (const auto& [name, text] : texts)
        command.add_option("--" + name, options.sizes[name], text)->check(positive_number())->group("Sizes");
}

CLI::App& add_command(CLI::App& tune, const char* op, const char* text, Parsed& parsed) {
    CLI::App& command = *tune.add_subcommand(op, text);
    TuneOptions& options = parsed.options;
    options.op = op;
    if (options.op != "all") {
        command.add_option("--shapes", options.shapes, "Shapes by model name; default: all")->delimiter(',');
        command.add_option("--formats", options.formats, "Formats; default: the model's own")->delimiter(',');
    }
    command
        .add_option("--max-tokens", options.max_tokens,
                    "Largest call: all its buckets are tuned; default: 256, without --shapes as benchmarks have them")
        ->check(positive_number());
    command.add_option("--tokens", options.tokens, "These token counts instead of all buckets")
        ->delimiter(',')
        ->check(positive_number());
    command.add_option("--device", parsed.device, "cuda, cuda:N or cpu")->capture_default_str();
    command.add_option("--store", parsed.outputs.store, "Merge the winners into this store");
    command.add_option("--out,--json", parsed.outputs.json, "Write all measurements to this file");
    command.add_option("--report", parsed.outputs.report, "Write a page with plots to this file");
    command.add_option("--seconds", options.seconds, "Time budget of each shape; 0: none")->check(nonnegative_number());
    command.add_option("--budget", parsed.outputs.seconds, "Time budget in seconds of all shapes together; 0: none")
        ->check(nonnegative_number());
    command
        .add_option("--candidate-seconds", options.candidate_seconds, "A candidate that takes longer for a step hangs")
        ->check(positive_number())
        ->capture_default_str();
    command.add_option("--memory", options.memory_bytes, "Bytes for random weights or caches; 0: by the device")
        ->check(nonnegative_number());
    command.add_flag("--retry-failed", options.retry_failed, "Also what the store lists as failed for this build");
    command.add_flag("--no-isolation", parsed.shared_process, "No process of their own for first contact");
    command.add_option("--probe", parsed.probe, "Journal of a process that runs candidates first")->group("");
    command.add_option("--clock-step", parsed.clock_step, "Seconds that a look at a clock for tests takes")->group("");
    return command;
}

struct ParsedBench {
    BenchOptions options;
    TuneOptions common;
    std::vector<std::string> ops = {"moe", "mla"};
    std::string device = "cuda";
    bool shared_process = false;
};

int run(const ParsedBench& parsed) {
    BenchOptions options = parsed.options;
    for (const std::string& op : parsed.ops) {
        if (op != "moe" && op != "mla") invalid("bench tuning: unknown operator '{}', known: moe, mla", op);
        TuneOptions common = parsed.common;
        common.isolate = !parsed.shared_process;
        for (TuneOptions& group : checked_groups(op, common, parsed.device)) options.groups.push_back(std::move(group));
    }
    return bench_tuning(options);
}

void add_routing(CLI::App& command, TuneOptions& options) {
    command.add_option("--routing", options.routing, "uniform, balanced, zipf: calls take these in turn")
        ->delimiter(',')
        ->capture_default_str();
}

}  // namespace

void add_commands(CLI::App& tune, int& status) {
    auto moe = std::make_shared<Parsed>();
    CLI::App& moe_command = add_command(tune, "moe", "Tune the whole MoE layer", *moe);
    moe_command.add_option("--ep", moe->options.ep, "Ranks over which the experts are spread")
        ->check(positive_number())
        ->capture_default_str();
    add_routing(moe_command, moe->options);
    CLI::Option* checkpoint = moe_command.add_option(
        "--checkpoint", moe->options.checkpoint,
        "Layers of this checkpoint: a safetensors file, an index or a folder, beside config.json");
    moe_command.add_option("--layer", moe->options.layer, "Layer of the checkpoint; default: every different one")
        ->needs(checkpoint)
        ->check(nonnegative_number());
    add_sizes(moe_command, moe->options,
              {{"hidden", "Hidden size"},
               {"intermediate", "Intermediate size of one expert"},
               {"experts", "Experts that ids may name, over all ranks"},
               {"top-k", "Experts per token"}});
    moe_command.callback([moe, &status] { status = run(*moe); });
    auto all = std::make_shared<Parsed>();
    all->outputs.seconds = kAllSeconds;
    CLI::App& all_command =
        add_command(tune, "all", "Tune both operators on all shapes of the benchmarks, few tokens and many", *all);
    add_routing(all_command, all->options);
    all_command.callback([all, &status] { status = run(*all); });
    auto mla = std::make_shared<Parsed>();
    CLI::App& mla_command = add_command(tune, "mla", "Tune sparse MLA attention", *mla);
    add_sizes(mla_command, mla->options,
              {{"heads", "Query heads"},
               {"dim", "Width of a row"},
               {"value-dim", "Width of the value part of a row"},
               {"top-k", "Selected rows per token"},
               {"page-size", "Rows per page"}});
    mla_command.callback([mla, &status] { status = run(*mla); });
}

void add_bench_command(CLI::App& bench, int& status) {
    auto parsed = std::make_shared<ParsedBench>();
    CLI::App& command = *bench.add_subcommand(
        "tuning", "Compare what plans take with the best of all configurations, measured in one run");
    TuneOptions& common = parsed->common;
    command.add_option("--ops", parsed->ops, "moe, mla; default: both")->delimiter(',');
    command.add_option("--shapes", common.shapes, "Shapes by model name; default: all, with one of --ops")
        ->delimiter(',');
    command.add_option("--formats", common.formats, "Formats; default: the model's own")->delimiter(',');
    command.add_option("--max-tokens", common.max_tokens, "Largest call")->check(positive_number());
    add_routing(command, common);
    parsed->options.seconds = kAllSeconds;
    command.add_option("--budget", parsed->options.seconds, "Time budget in seconds of everything; 0: none")
        ->check(nonnegative_number())
        ->capture_default_str();
    command.add_option("--tokens", common.tokens, "These token counts instead of all buckets")
        ->delimiter(',')
        ->check(positive_number());
    command.add_option("--tunings", parsed->options.tunings, "How often to tune first; 0: what plans take already")
        ->check(nonnegative_number())
        ->capture_default_str();
    command.add_option("--rounds", parsed->options.rounds, "Of the exhaustive measurement")
        ->check(CLI::Range(1, 1000))
        ->capture_default_str();
    command.add_option("--device", parsed->device, "cuda, cuda:N or cpu")->capture_default_str();
    command.add_flag("--no-isolation", parsed->shared_process, "No process of their own for first contact");
    command.add_option("--out,--json", parsed->options.out, "Write the results to this file");
    command.callback([parsed, &status] { status = run(*parsed); });
}

}  // namespace tokamak::cli::tuning
