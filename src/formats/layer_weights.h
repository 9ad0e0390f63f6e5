// SPDX-License-Identifier: Apache-2.0
// The experts of a layer as the checkpoint holds them: checked views into the file, nothing read yet.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "formats/layer_reader.h"
#include "tokamak/checkpoint.h"

namespace tokamak::formats {

/// Matrices of one expert. Layouts that store gate and up rows in one matrix have it in `gate` and no `up`.
struct ExpertWeights {
    WeightMatrix gate;
    std::optional<WeightMatrix> up;
    WeightMatrix down;
    Tensor gate_up_bias;  ///< absent, or bf16 [2 * intermediate], interleaved
    Tensor down_bias;     ///< absent, or bf16 [hidden]
};

struct LayerWeights {
    CheckpointLayout layout = CheckpointLayout::bf16;
    WeightSpec spec;
    std::int64_t hidden = 0;
    std::int64_t intermediate = 0;
    std::vector<ExpertWeights> experts;
    Tensor router_weight;  ///< of all experts of the layer, whatever part of them is read
    Tensor router_bias;
};

std::optional<CheckpointLayout> recognise(const LayerReader& reader);

/// Views of experts [first, first + count) (count -1: all from `first`).
LayerWeights read_layer(const LayerReader& reader, CheckpointLayout layout, std::int64_t first, std::int64_t count);

}  // namespace tokamak::formats
