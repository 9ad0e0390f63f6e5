// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <memory>
#include <optional>
#include <string>

#include "cli/bench/checkpoint_layer.h"
#include "cli/bench/decode/command.h"
#include "cli/bench/preset.h"
#include "cli/commands.h"
#include "cli/common.h"
#include "cli/number_check.h"
#include "cli/tuning/command.h"
#include "core/throw.h"

namespace tokamak::cli {
namespace {

struct Options {
    bench::Settings settings;
    bench::LayerOptions layer_options;
    std::string preset;
    std::string checkpoint;
    int layer = 0;
    std::string device = "cpu";
    std::string json_path;
};

/// Enough calls for a median where a call takes long; the preset is to end within two minutes on two cores.
MeasureLimits limits_for(bool quick) {
    return quick ? MeasureLimits{.min_samples = 2, .max_samples = 2, .seconds = 0}
                 : MeasureLimits{.min_samples = 3, .max_samples = 200, .seconds = 0.4};
}

int bench_command(Options options) {
    options.settings.device = parse_device(options.device);
    if (options.settings.device.is_cuda())
        fail(ErrorCode::unsupported,
             "bench: --device {}: the preset and checkpoints run on the CPU; `bench moe` and `bench mla` measure a GPU",
             options.device);
    options.settings.limits = limits_for(options.settings.quick);
    bench::Report report(options.settings);
    if (!options.checkpoint.empty()) {
        report.progress(fmt::format("{}: loading and packing layer {}", printable(options.checkpoint), options.layer));
        run_moe_layer(report, bench::load_layer(options.checkpoint, options.layer, options.layer_options));
    } else {
        run_decode_preset(report);
    }
    report.note(
        "error: norm of the difference to float64 over its norm; largest: over the largest value; "
        "checked: tokens compared with float64");
    if (!options.json_path.empty()) write_json(options.json_path, to_json(report.results()));
    if (report.failures() == 0) return 0;
    report.note(fmt::format("{} of {} results are wrong", report.failures(), report.results().rows.size() / 2));
    return 1;
}

void add_layer_options(CLI::App& command, Options& options) {
    bench::LayerOptions& layer = options.layer_options;
    const std::string group = "Checkpoint";
    CLI::Option* file =
        command.add_option("--checkpoint", options.checkpoint, "Run a layer of this safetensors file")->group(group);
    const auto add = [&](const char* name, auto& value, const char* text) {
        return command.add_option(name, value, text)->needs(file)->group(group);
    };
    add("--layer", options.layer, "Layer of the file")->check(nonnegative_number())->capture_default_str();
    add("--experts", layer.experts, "Only the first experts")->check(positive_number());
    add("--activation", layer.activation, "swiglu, swiglu_clamped or gpt_oss; default: by the file's layout");
    add("--limit", layer.limit, "Clamp of the activation");
    add("--routing", layer.routing, "softmax or sigmoid_grouped; default: by the file's layout");
    add("--top-k", layer.top_k, "Experts per token")->check(positive_number());
    add("--groups", layer.groups, "Expert groups of sigmoid_grouped")->check(positive_number());
    add("--top-groups", layer.top_groups, "Groups kept")->check(positive_number());
    add("--scaling", layer.scaling, "Factor of the routing weights");
    add("--renormalize", layer.renormalize, "Whether the chosen weights are divided by their sum (true, false)");
}

}  // namespace

void add_bench(CLI::App& app, int& status) {
    auto options = std::make_shared<Options>();
    CLI::App* command = app.add_subcommand(
        "bench", "Run operators on real shapes, compare every output with a float64 oracle, and time them");
    command->add_option("--preset", options->preset, "decode (default): MoE layers and sparse MLA at few tokens")
        ->check(CLI::IsMember({"decode"}));
    command->add_option("--tokens", options->settings.tokens, "Token counts, separated by commas")
        ->delimiter(',')
        ->check(CLI::Range(1, 1 << 20))
        ->capture_default_str();
    command->add_option("--device", options->device, "cpu")->capture_default_str();
    command->add_option("--json", options->json_path, "Write the results to this file");
    command->add_flag("--quick", options->settings.quick, "Tiny sizes and two calls each: a smoke test");
    command->add_option("--keep", options->settings.keep_folder, "Make the checkpoint files here and keep them");
    add_layer_options(*command, *options);
    bench::add_decode_commands(*command, status);
    tuning::add_bench_command(*command, status);
    command->callback([options, command, &status] {
        if (command->get_subcommands().empty()) status = bench_command(*options);
    });
}

}  // namespace tokamak::cli
