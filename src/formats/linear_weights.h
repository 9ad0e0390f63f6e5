// SPDX-License-Identifier: Apache-2.0
// One projection in a layout with numbered experts: which tensors it has, of what types and shapes.
#pragma once

#include <cstdint>
#include <string>

#include "formats/stored_matrix.h"

namespace tokamak::formats {

/// What the gate projection of one expert says about the layer.
struct LinearProbe {
    WeightSpec spec;
    std::int64_t rows = 0;
    std::int64_t cols = 0;
};

/// Reads sizes and format from the tensors under `linear` ("mlp.experts.0.gate_proj.").
LinearProbe probe_linear(const LayerReader& reader, CheckpointLayout layout, const std::string& linear);

/// Checks every tensor of a projection of known size.
StoredMatrix read_linear(const LayerReader& reader, CheckpointLayout layout, const std::string& linear,
                         const WeightSpec& spec, std::int64_t rows, std::int64_t cols, GptqZeros zeros);

}  // namespace tokamak::formats
