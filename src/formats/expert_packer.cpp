// SPDX-License-Identifier: Apache-2.0
#include "formats/expert_packer.h"

#include <cstring>

namespace tokamak::formats {

LoadedExpert load_expert(const LayerReader& reader, const ExpertWeights& weights) {
    LoadedExpert expert{load_matrix(reader, weights.gate), std::nullopt, load_matrix(reader, weights.down)};
    if (weights.up) expert.up = load_matrix(reader, *weights.up);
    return expert;
}

ExpertViews slice_of(const LoadedExpert& expert, Slice slice) {
    const std::int64_t pairs = expert.up ? 1 : 2;
    ExpertViews views{slice_rows(expert.gate, pairs * slice.first, pairs * slice.count), std::nullopt,
                      slice_cols(expert.down, slice.first, slice.count)};
    if (expert.up) views.up = slice_rows(*expert.up, slice.first, slice.count);
    return views;
}

void pack_expert(const ExpertViews& views, const PackedLayout& gate_up, const PackedLayout& down,
                 std::span<std::byte> gate_up_bytes, std::span<std::byte> down_bytes) {
    if (views.up) {
        pack_gate_up(gate_up, views.gate, *views.up, gate_up_bytes);
    } else {
        pack(gate_up, views.gate, RowOrder::gate_up_interleaved, gate_up_bytes);
    }
    pack(down, views.down, RowOrder::plain, down_bytes);
}

void slice_gate_up_bias(const std::byte* bias, Slice slice, std::byte* out) noexcept {
    constexpr std::int64_t size = 2;
    for (std::int64_t i = 0; i < slice.count; ++i)
        for (std::int64_t up = 0; up < 2; ++up)
            std::memcpy(out + (up * slice.count + i) * size, bias + (2 * (slice.first + i) + up) * size, size);
}

}  // namespace tokamak::formats
