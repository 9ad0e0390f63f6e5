// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <charconv>
#include <chrono>
#include <cstdio>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "cli/commands.h"
#include "cli/common.h"
#include "cli/number_check.h"
#include "cli/progress_bar.h"
#include "core/throw.h"
#include "tokamak/packed_file.h"

namespace tokamak::cli {
namespace {

struct Options {
    PackRequest request;
    std::string layers;
    std::string tensor_slice;
    std::string expert_slice;
    std::string gptq_zeros;
    bool verify_only = false;
};

/// The number that `text` is, all of it.
int parse_number(std::string_view text, std::string_view option, std::string_view value) {
    int number = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
    if (error != std::errc() || end != text.data() + text.size() || number < 0)
        fail(ErrorCode::parse, "{} is '{}', which holds something other than numbers", option, printable(value));
    return number;
}

/// "3,5-7" to 3, 5, 6, 7.
std::vector<int> parse_layers(const std::string& value) {
    constexpr int most = 100'000;
    std::vector<int> layers;
    std::string_view rest = value;
    while (!rest.empty()) {
        const std::string_view part = rest.substr(0, rest.find(','));
        rest.remove_prefix(std::min(part.size() + 1, rest.size()));
        const auto dash = part.find('-');
        const int first = parse_number(part.substr(0, dash), "--layers", value);
        const int last =
            dash == std::string_view::npos ? first : parse_number(part.substr(dash + 1), "--layers", value);
        if (last < first || last - first > most)
            fail(ErrorCode::parse, "--layers is '{}', expected numbers and ranges such as 3,5-7", printable(value));
        for (int layer = first; layer <= last; ++layer) layers.push_back(layer);
    }
    return layers;
}

/// "1/4" to rank 1 of 4.
void parse_slice(const std::string& value, const char* option, int& rank, int& size) {
    if (value.empty()) return;
    const auto slash = value.find('/');
    if (slash == std::string::npos)
        fail(ErrorCode::parse, "{} is '{}', expected rank/size such as 0/8", option, printable(value));
    rank = parse_number(std::string_view(value).substr(0, slash), option, value);
    size = parse_number(std::string_view(value).substr(slash + 1), option, value);
    if (rank >= size) fail(ErrorCode::parse, "{} is '{}', expected a rank below the size", option, printable(value));
}

std::string layer_text(const std::vector<int>& layers) {
    return fmt::format("{} {}", layers.size(), layers.size() == 1 ? "layer" : "layers");
}

void complete(Options& options) {
    PackRequest& request = options.request;
    if (!options.layers.empty()) request.layers = parse_layers(options.layers);
    parse_slice(options.tensor_slice, "--tensor-slice", request.tensor_rank, request.tensor_size);
    parse_slice(options.expert_slice, "--expert-slice", request.expert_rank, request.expert_size);
    if (options.gptq_zeros == "minus-one") request.gptq_zeros = GptqZeros::minus_one;
    if (options.gptq_zeros == "plain") request.gptq_zeros = GptqZeros::plain;
}

void print_report(const Options& options, const PackReport& report, double seconds) {
    const auto bytes = static_cast<double>(report.bytes);
    const std::string size = fmt::format("{}, {} in {} ({}/s)", layer_text(report.layers), byte_text(bytes),
                                         duration_text(seconds), byte_text(bytes / std::max(seconds, 1e-6)));
    const std::string output = printable(options.request.output);
    if (options.verify_only) {
        fmt::print("{}: equals its source: {}\n", output, size);
        return;
    }
    fmt::print("{}: {}{}\n", output, size, report.verified ? ", verified" : "");
    if (!report.kept_layers.empty()) fmt::print("{} kept from an interrupted run\n", layer_text(report.kept_layers));
}

void pack(Options& options) {
    complete(options);
    const auto begin = std::chrono::steady_clock::now();
    PackReport report;
    {
        ProgressBar bar;
        const PackObserver observer = [&](const PackProgress& at) {
            bar.show(at.phase, fmt::format(" layer {}", at.layer), at.bytes, at.total_bytes);
        };
        report = options.verify_only ? verify_packed_file(options.request, observer)
                                     : pack_checkpoint(options.request, observer);
    }
    print_report(options, report, std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
}

}  // namespace

void add_pack(CLI::App& app, int& status) {
    auto options = std::make_shared<Options>();
    PackRequest& request = options->request;
    CLI::App* command = app.add_subcommand(
        "pack",
        "Pack a checkpoint's experts for the kernels; an interrupted run goes on where it was (docs/packed_file.md)");
    command
        ->add_option("SOURCE", request.source,
                     "A safetensors file, a model.safetensors.index.json, or a folder with one of them")
        ->required();
    command->add_option("OUTPUT", request.output, "The packed file")->required();
    command->add_option("--layers", options->layers,
                        "Numbers and ranges such as 3,5-7; all layers with experts if absent");
    command->add_option("--tensor-slice", options->tensor_slice,
                        "rank/size of tensor parallelism: a slice of the intermediate size");
    command->add_option("--expert-slice", options->expert_slice,
                        "rank/size of expert parallelism: a slice of the experts");
    command
        ->add_option("--gptq-zeros", options->gptq_zeros,
                     "How a GPTQ checkpoint stores zero points; as its configuration says if absent")
        ->check(CLI::IsMember({"minus-one", "plain"}));
    command->add_option("--threads", request.threads, "Experts packed at a time; 0: as many as there are processors")
        ->check(nonnegative_number());
    command->add_flag("--verify", request.verify, "Read every expert back, unpack it and compare it with the source");
    command->add_flag("--verify-only", options->verify_only, "Only compare an existing OUTPUT with SOURCE");
    command->add_flag("--overwrite", request.overwrite, "Replace an existing OUTPUT");
    command->callback([options, &status] {
        pack(*options);
        status = 0;
    });
}

}  // namespace tokamak::cli
