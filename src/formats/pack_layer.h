// SPDX-License-Identifier: Apache-2.0
// One layer of a packed file: written, summed up, compared with its source.
#pragma once

#include <cstdint>
#include <functional>

#include "formats/file_io.h"
#include "formats/pack_plan.h"

namespace tokamak::formats {

/// Where a layer goes, and who is told. `done` takes packed bytes; it is called from any thread.
struct LayerJob {
    const PackPlan& plan;
    const PlannedLayer& layer;
    const OpenFile& output;
    int threads = 0;
    const std::function<void(std::size_t)>& done;
};

/// Packs a layer's experts, a few at a time. Returns the checksum of all its bytes, that of `sum_layer`.
std::uint64_t write_layer(const LayerJob& job);
/// Checksum of the bytes that the output has for the layer. Those of the experts are added, so that their order does
/// not matter.
std::uint64_t sum_layer(const LayerJob& job);
/// Unpacks each expert of the output and compares it with the source, bit by bit, and the other tensors likewise.
/// Throws `parse` naming the first that differs. An mxfp4 group of scale code 0xFF counts as zeros under scale code 0.
void verify_layer(const LayerJob& job);

}  // namespace tokamak::formats
