// SPDX-License-Identifier: Apache-2.0
#include "cli/bench/decode/command.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <memory>
#include <string>

#include "cli/common.h"
#include "core/throw.h"

namespace tokamak::cli::bench {
namespace {

struct Parsed {
    DecodeOptions options;
    std::string device = "cuda";
};

/// Names are checked before a device is asked for: a wrong one is refused on any machine.
DecodeOptions finished(const Parsed& parsed, const char* command) {
    DecodeOptions options = parsed.options;
    static_cast<void>(options.mode_list());
    const Device device = parse_device(parsed.device);
    if (!device.is_cuda())
        fail(ErrorCode::unsupported,
             "bench {}: --device {}: these benchmarks are for a GPU; `tokamak bench` without a "
             "name runs on the CPU",
             command, parsed.device);
    options.device = usable_device(parsed.device);
    return options;
}

void check_ops(const DecodeOptions& options, std::initializer_list<std::string_view> known, const char* command) {
    for (const std::string& op : options.ops) {
        if (std::find(known.begin(), known.end(), op) != known.end()) continue;
        std::string names;
        for (const std::string_view name : known) names += (names.empty() ? "" : ", ") + std::string(name);
        invalid("bench {}: unknown operator '{}', known: {}", command, op, names);
    }
}

CLI::App& add_command(CLI::App& bench, const char* name, const char* text, Parsed& parsed) {
    CLI::App& command = *bench.add_subcommand(name, text);
    DecodeOptions& options = parsed.options;
    const auto list = [&command](const char* option, auto& values, const char* help) {
        return command.add_option(option, values, help)->delimiter(',');
    };
    list("--shapes", options.shapes, "Shapes by model name; default: all");
    list("--formats", options.formats, "Formats; default: see the documentation");
    list("--tokens", options.tokens, "Token counts; default: 1,2,4,...,256")->check(CLI::Range(1, 1 << 17));
    list("--modes", options.modes, "owning, workspace, graph; default: all");
    list("--ops", options.ops, "Operators; default: all");
    command.add_flag("--configurations", options.configurations,
                     "Compare the automatic choice with every fixed configuration at 1, 8 and 64 tokens");
    command.add_option("--device", parsed.device, "cuda or cuda:N")->capture_default_str();
    command.add_option("--out,--json", options.out, "Write the results to this file");
    return command;
}

}  // namespace

void add_decode_commands(CLI::App& bench, int& status) {
    auto moe = std::make_shared<Parsed>();
    CLI::App& moe_command = add_command(bench, "moe", "Time MoE decode on a GPU, and check it", *moe);
    moe_command.add_option("--routing", moe->options.routing, "uniform, balanced, zipf; default: all")->delimiter(',');
    auto preset = std::make_shared<std::string>("decode");
    moe_command
        .add_option("--preset", *preset,
                    "decode: few tokens; prefill: 64,128,...,32768 tokens on shapes and formats for them")
        ->check(CLI::IsMember({"decode", "prefill"}))
        ->capture_default_str();
    moe_command.add_flag("--clearing", moe->options.clearing,
                         "Show what clearing accumulators costs; prefill: of the atomic combine");
    moe_command.callback([moe, preset, &status] {
        check_ops(moe->options, {"fused_moe", "align", "routed_gemm", "sum_reduce", "from_logits"}, "moe");
        moe->options.prefill = *preset == "prefill";
        if (moe->options.prefill) {
            static_cast<void>(prefill_cases(moe->options));
            static_cast<void>(prefill_calls(moe->options));
            status = bench_moe_prefill(finished(*moe, "moe"));
            return;
        }
        for (const MoeCase& layer : moe_cases(moe->options))
            static_cast<void>(moe_calls(moe->options, layer.published));
        status = bench_moe(finished(*moe, "moe"));
    });
    auto mla = std::make_shared<Parsed>();
    CLI::App& mla_command = add_command(bench, "mla", "Time sparse MLA decode on a GPU, and check it", *mla);
    mla_command.callback([mla, &status] {
        check_ops(mla->options, {"sparse_attention", "write_kv", "paged_gather", "merge_state"}, "mla");
        static_cast<void>(mla_cases(mla->options));
        status = bench_mla(finished(*mla, "mla"));
    });
}

}  // namespace tokamak::cli::bench
