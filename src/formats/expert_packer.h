// SPDX-License-Identifier: Apache-2.0
// One expert from a checkpoint's tensors to packed bytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "formats/layer_weights.h"

namespace tokamak::formats {

/// Part of the intermediate size that one rank of tensor parallelism has.
struct Slice {
    std::int64_t first = 0;
    std::int64_t count = 0;
};

struct LoadedExpert {
    LoadedMatrix gate;
    std::optional<LoadedMatrix> up;
    LoadedMatrix down;
};
LoadedExpert load_expert(const LayerReader& reader, const ExpertWeights& weights);

/// Views of a slice. Without `up`, gate and up rows are interleaved in `gate`.
struct ExpertViews {
    WeightMatrix gate;
    std::optional<WeightMatrix> up;
    WeightMatrix down;
};
ExpertViews slice_of(const LoadedExpert& expert, Slice slice);

void pack_expert(const ExpertViews& views, const PackedLayout& gate_up, const PackedLayout& down,
                 std::span<std::byte> gate_up_bytes, std::span<std::byte> down_bytes);

/// Interleaved pairs of a bias, cut to the slice: gate then up, bf16 [2 * slice.count].
void slice_gate_up_bias(const std::byte* bias, Slice slice, std::byte* out) noexcept;

}  // namespace tokamak::formats
