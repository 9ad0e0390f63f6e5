// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "cli/catalogue.h"
#include "cli/ceilings.h"
#include "cli/commands.h"
#include "cli/common.h"
#include "core/build_info.h"

namespace tokamak::cli {
namespace {

using nlohmann::json;

/// The devices that the tables speak about: all that exist, and the first GPU even where there is none.
std::vector<Device> devices_to_show() {
    std::vector<Device> devices;
    for (const DeviceInfo& info : list_devices()) devices.push_back(info.device);
    if (devices.size() == 1) devices.push_back(Device::cuda());
    return devices;
}

json device_json(const DeviceInfo& info) {
    return {{"device", to_string(info.device)},
            {"name", info.name},
            {"compute_capability", info.compute_capability},
            {"multiprocessors", info.multiprocessors},
            {"shared_memory_bytes", info.shared_memory_bytes},
            {"l2_bytes", info.l2_bytes},
            {"memory_bytes", info.memory_bytes}};
}

json backend_json(Device device) {
    const auto reason = unavailable(device);
    if (reason) return {{"available", false}, {"reason", *reason}};
    return {{"available", true}};
}

json offer_json(const Offer& offer) {
    if (offer.reason.empty()) return {{"variants", offer.variants}};
    return {{"variants", json::array()}, {"reason", offer.reason}};
}

json info_json() {
    json document = {{"tokamak", build_info::version()},
                     {"commit", build_info::commit()},
                     {"cuda_sources", build_info::cuda_sources_hash()},
                     {"devices", json::array()},
                     {"backends", {{"cpu", backend_json(Device::cpu())}, {"cuda", backend_json(Device::cuda())}}},
                     {"operators", json::array()}};
    for (const DeviceInfo& info : list_devices()) document["devices"].push_back(device_json(info));
    for (const CatalogueEntry& entry : catalogue()) {
        json offers = json::object();
        for (const Device device : devices_to_show()) offers[to_string(device)] = offer_json(entry.ask(device));
        document["operators"].push_back({{"op", entry.op}, {"format", entry.format}, {"devices", offers}});
    }
    return document;
}

void print_device(const DeviceInfo& info) {
    fmt::print("  {:<8} {}", to_string(info.device), info.name);
    if (info.device.is_cuda())
        fmt::print(", sm_{}, {} SMs, {} MiB L2", info.compute_capability, info.multiprocessors, info.l2_bytes >> 20);
    else
        fmt::print(", {} threads", info.multiprocessors);
    fmt::print(", {:.1f} GiB\n", static_cast<double>(info.memory_bytes) / (1 << 30));
}

void print_operators(Device device) {
    fmt::print("\noperators on {}\n", to_string(device));
    if (const auto reason = unavailable(device)) return fmt::print("  none: {}\n", *reason);
    for (const CatalogueEntry& entry : catalogue()) {
        const Offer offer = entry.ask(device);
        fmt::print("  {:<23} {:<16} ", entry.op, entry.format);
        if (offer.reason.empty())
            fmt::print("{}\n", fmt::join(offer.variants, ", "));
        else
            fmt::print("unavailable: {}\n", offer.reason);
    }
}

void print_info() {
    fmt::print("tokamak {} ({})\n\ndevices\n", build_info::version(), build_info::commit());
    for (const DeviceInfo& info : list_devices()) print_device(info);
    fmt::print("\nbackends\n  cpu      available\n");
    const auto reason = unavailable(Device::cuda());
    fmt::print("  cuda     {}\n", reason ? "unavailable: " + *reason : "available");
    for (const Device device : devices_to_show()) print_operators(device);
}

struct Options {
    bool ceilings = false;
    bool json = false;      ///< given, with or without a file
    std::string json_path;  ///< empty: stdout
};

int info_command(const Options& options) {
    if (options.ceilings) return run_ceilings(options.json_path);
    if (!options.json)
        print_info();
    else if (options.json_path.empty())
        fmt::print("{}\n", info_json().dump(1));
    else
        write_json(options.json_path, info_json());
    return 0;
}

}  // namespace

void add_info(CLI::App& app, int& status) {
    auto options = std::make_shared<Options>();
    CLI::App* info = app.add_subcommand(
        "info", "Version, devices, backends, and the variants of every operator and format, or why there are none");
    const CLI::Option* json = info->add_option("--json", options->json_path, "JSON, to this file or to stdout")
                                  ->expected(0, 1)
                                  ->type_name("[FILE]");
    info->add_flag("--ceilings", options->ceilings,
                   "Measure what the GPU can do at most: bandwidths, matrix rates, launches; --json FILE keeps it");
    info->callback([options, json, &status] {
        options->json = json->count() > 0;
        status = info_command(*options);
    });
}

}  // namespace tokamak::cli
