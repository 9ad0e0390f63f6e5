// SPDX-License-Identifier: Apache-2.0
#include "cli/ceilings.h"

#include <fmt/format.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "core/build_info.h"
#include "core/throw.h"
#include "cuda/ceilings/ceilings.h"

namespace tokamak::cli {
namespace {

using nlohmann::json;

json to_json(const ceilings::Ceilings& c) {
    json floors = json::array();
    for (const ceilings::ReadFloor& floor : c.read_floors)
        floors.push_back({{"bytes", floor.bytes},
                          {"us", floor.us},
                          {"gbps", static_cast<double>(floor.bytes) / floor.us * 1e-3},
                          {"kernel", floor.kernel}});
    return {{"tokamak", build_info::version()},
            {"commit", build_info::commit()},
            {"cuda_sources", build_info::cuda_sources_hash()},
            {"device", c.device},
            {"ceilings",
             {{"read_gbps", c.read_gbps},
              {"copy_gbps", c.copy_gbps},
              {"bf16_tflops_burst", c.bf16_tflops_burst},
              {"bf16_tflops_sustained", c.bf16_tflops_sustained},
              {"fp8_tflops_burst", c.fp8_tflops_burst},
              {"fp8_tflops_sustained", c.fp8_tflops_sustained},
              {"source", c.matrix_source}}},
            {"launches_us",
             {{"graph_node", c.graph_node_us},
              {"graph_node_pdl", c.graph_node_pdl_us},
              {"graph_node_200kb", c.graph_node_200kb_us},
              {"cooperative_node", c.cooperative_node_us},
              {"cooperative_node_200kb", c.cooperative_node_200kb_us},
              {"grid_barrier", c.grid_barrier_us}}},
            {"read_floors", std::move(floors)}};
}

void print(const ceilings::Ceilings& c) {
    fmt::print("{}\n", c.device);
    fmt::print("  read                  {:8.0f} GB/s\n  copy (read + write)   {:8.0f} GB/s\n", c.read_gbps,
               c.copy_gbps);
    fmt::print("  bf16 matrix units     {:8.0f} TFLOP/s burst, {:.0f} sustained ({})\n", c.bf16_tflops_burst,
               c.bf16_tflops_sustained, c.matrix_source);
    fmt::print("  fp8 matrix units      {:8.0f} TFLOP/s burst, {:.0f} sustained\n", c.fp8_tflops_burst,
               c.fp8_tflops_sustained);
    fmt::print("  graph node            {:8.2f} us, {:.2f} with programmatic dependent launch, {:.2f} with 200 KB\n",
               c.graph_node_us, c.graph_node_pdl_us, c.graph_node_200kb_us);
    fmt::print("  cooperative node      {:8.2f} us, {:.2f} with 200 KB\n", c.cooperative_node_us,
               c.cooperative_node_200kb_us);
    fmt::print("  grid barrier          {:8.2f} us\n  read floor, cold L2\n", c.grid_barrier_us);
    for (const ceilings::ReadFloor& floor : c.read_floors)
        fmt::print("  {:8.0f} MB {:19.1f} us {:8.0f} GB/s  {}\n", static_cast<double>(floor.bytes) * 1e-6, floor.us,
                   static_cast<double>(floor.bytes) / floor.us * 1e-3, floor.kernel);
}

}  // namespace

int run_ceilings(const std::string& json_path) {
    const auto progress = [](const std::string& what) { fmt::print(stderr, "measuring {} ...\n", what); };
    const ceilings::Ceilings measured = ceilings::measure({.progress = progress});
    print(measured);
    if (json_path.empty()) return 0;
    std::ofstream file(json_path);
    file << to_json(measured).dump(1) << "\n";
    file.close();
    if (!file) fail(ErrorCode::io, "info: could not write `{}`", json_path);
    return 0;
}

}  // namespace tokamak::cli
