// SPDX-License-Identifier: Apache-2.0
// Synthetic checkpoint layers: names, types, shapes and row orders of the published ones, random weights.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "tokamak/checkpoint.h"

namespace tokamak::formats {

struct SyntheticLayer {
    CheckpointLayout layout = CheckpointLayout::bf16;
    int layer = 0;
    std::int64_t experts = 1;
    std::int64_t hidden = 0;
    std::int64_t intermediate = 0;
    int group_size = 32;  ///< compressed_tensors, awq and gptq only
    std::uint64_t seed = 0;
};

/// Tensors with their memory, in the order to be written.
struct SyntheticTensors {
    std::vector<OwnedTensor> memory;
    std::vector<NamedTensor> tensors;
};

/// Weights as a quantiser would make them of normal values of standard deviation 1/sqrt(columns), so that activations
/// of order one give outputs of order one; router weights and biases likewise. The same arguments give the same bits,
/// whatever the number of threads. Throws `invalid_argument` for sizes that the layout cannot have.
SyntheticTensors make_synthetic_layer(const SyntheticLayer& layer);

/// The same as a safetensors file. The layer is held in memory meanwhile.
void write_synthetic_layer(const std::string& path, const SyntheticLayer& layer);

}  // namespace tokamak::formats
