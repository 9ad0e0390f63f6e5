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

}  // namespace

void add_info(CLI::App& app, int& status) {
    auto as_json = std::make_shared<bool>(false);
    CLI::App* info = app.add_subcommand(
        "info", "Version, devices, backends, and the variants of every operator and format, or why there are none");
    info->add_flag("--json", *as_json, "Print JSON");
    info->callback([as_json, &status] {
        if (*as_json)
            fmt::print("{}\n", info_json().dump(1));
        else
            print_info();
        status = 0;
    });
}

}  // namespace tokamak::cli
