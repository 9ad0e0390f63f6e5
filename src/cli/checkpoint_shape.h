// SPDX-License-Identifier: Apache-2.0
// The MoE layers of a checkpoint as shapes: sizes and format from its tensors, the rest from its config.json. No weight
// is read.
#pragma once

#include <string>
#include <vector>

#include "cli/shapes.h"

namespace tokamak::cli {

struct CheckpointShape {
    MoeShape shape;  ///< named like the checkpoint; one format
    int layer = 0;   ///< the first that has it
};

/// The different shapes among the layers, in their order. `path` is a safetensors file, an index, or a folder with
/// either; `layer` -1: all layers; `top_k` 0: as config.json says. Throws `io` or `parse` for what no adapter accepts
/// and `invalid_argument` where nothing says how many experts a token has.
std::vector<CheckpointShape> checkpoint_shapes(const std::string& path, int layer, int top_k);

}  // namespace tokamak::cli
