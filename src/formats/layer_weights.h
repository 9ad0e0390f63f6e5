// SPDX-License-Identifier: Apache-2.0
// The experts of a layer as the checkpoint holds them: checked descriptions, nothing read yet.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "formats/layer_reader.h"
#include "formats/stored_matrix.h"
#include "tokamak/checkpoint.h"

namespace tokamak::formats {

/// Matrices of one expert. Layouts that store gate and up rows in one matrix have it in `gate` and no `up`.
struct ExpertWeights {
    StoredMatrix gate;
    std::optional<StoredMatrix> up;
    StoredMatrix down;
    StoredTensor gate_up_bias;  ///< absent, or bf16 [2 * intermediate], interleaved
    StoredTensor down_bias;     ///< absent, or bf16 [hidden]
};

struct LayerWeights {
    CheckpointLayout layout = CheckpointLayout::bf16;
    WeightSpec spec;
    std::int64_t hidden = 0;
    std::int64_t intermediate = 0;
    std::int64_t total_experts = 0;  ///< of the layer, whatever part of them is read
    std::vector<ExpertWeights> experts;
    StoredTensor router_weight;  ///< of all experts of the layer
    StoredTensor router_bias;
};

std::optional<CheckpointLayout> recognise(const LayerReader& reader);

/// The layer, or a `parse` error that says that the checkpoint has none of its experts.
LayerReader layer_reader(const std::shared_ptr<const TensorSource>& source, int layer);
/// Its layout, or a `parse` error that lists the known ones.
CheckpointLayout known_layout(const LayerReader& reader);

/// Descriptions of experts [first, first + count) (count -1: all from `first`).
LayerWeights read_layer(const LayerReader& reader, CheckpointLayout layout, std::int64_t first, std::int64_t count,
                        GptqZeros zeros);

}  // namespace tokamak::formats
