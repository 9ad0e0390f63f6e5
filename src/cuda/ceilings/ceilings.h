// SPDX-License-Identifier: Apache-2.0
// What a GPU can do at most, measured in one process: the denominators of every share that Tokamak reports.
#pragma once

#include <cstddef>
#include <functional>
#include <string>
#include <vector>

namespace tokamak::ceilings {

struct ReadFloor {
    std::size_t bytes = 0;
    double us = 0.0;          ///< one kernel node in a graph, cold L2, best kernel
    const char* kernel = "";  ///< which one
};

struct Ceilings {
    std::string device;
    double read_gbps = 0.0;              ///< bulk copies into a shared-memory ring, 8 GB
    double copy_gbps = 0.0;              ///< device-to-device copy, bytes read plus bytes written
    double bf16_tflops_burst = 0.0;      ///< ten 8192^3 products after a second of idling
    double bf16_tflops_sustained = 0.0;  ///< last part of seconds of products
    double fp8_tflops_burst = 0.0;
    double fp8_tflops_sustained = 0.0;
    std::string matrix_source;         ///< "cuBLASLt ..." or "own wgmma loop"
    double graph_node_us = 0.0;        ///< in a chain of dependent empty kernels
    double graph_node_pdl_us = 0.0;    ///< same, programmatic dependent launch
    double graph_node_200kb_us = 0.0;  ///< same as the first, 200 KB of dynamic shared memory
    double cooperative_node_us = 0.0;
    double cooperative_node_200kb_us = 0.0;
    double grid_barrier_us = 0.0;  ///< one counter, all SMs, inside one kernel
    std::vector<ReadFloor> read_floors;
};

struct Options {
    int device = 0;
    double sustained_seconds = 2.5;  ///< of each matrix type
    bool launches = true;            ///< false: costs of launches and barriers stay 0
    double burst_rest_seconds = 1;   ///< of idling before a burst
    std::function<void(const std::string&)> progress;
};

/// Allocates about 20 GB on the device and takes about 15 seconds. Throws `unsupported` where the build has no CUDA or
/// the device is not Hopper, `device` on CUDA errors.
Ceilings measure(const Options& options);

}  // namespace tokamak::ceilings
