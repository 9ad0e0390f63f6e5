// SPDX-License-Identifier: Apache-2.0
// What a packed file will hold and where: everything but the weights, known before the first byte is written.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "formats/checkpoint_files.h"
#include "formats/expert_packer.h"
#include "tokamak/packed_file.h"

namespace tokamak::formats {

inline constexpr const char* kPackedVersionKey = "tokamak_packed";
inline constexpr const char* kPackedVersion = "1";
inline constexpr const char* kLayoutVersionKey = "packed_layout";
inline constexpr std::size_t kPackedAlignment = 4096;  ///< of the data section: a page, so that packed tensors may be
                                                       ///< mapped, registered or read past the page cache

/// Name of a layer's tensor in a packed file.
std::string packed_name(int layer, const char* tensor);
/// Metadata key and text of a layer, and back. Parsing throws `parse` naming `file`.
std::string layer_key(int layer);
std::string describe_layer(const PackedLayer& layer);
PackedLayer parse_layer(const std::string& file, int layer, const std::string& text);

struct PlannedLayer {
    PackedLayer sizes;  ///< tensors without data
    GptqZeros zeros = GptqZeros::minus_one;
    /// Offsets in the output, from its first byte; 0 for absent tensors.
    std::uint64_t gate_up = 0, down = 0, gate_up_bias = 0, down_bias = 0, router_weight = 0, router_bias = 0;

    [[nodiscard]] Slice slice() const noexcept { return {sizes.first_intermediate, sizes.intermediate}; }
    [[nodiscard]] std::size_t packed_bytes() const noexcept { return sizes.gate_up.bytes() + sizes.down.bytes(); }
};

struct PackPlan {
    std::shared_ptr<const CheckpointFiles> source;
    std::vector<PlannedLayer> layers;
    std::string header;
    std::uint64_t file_bytes = 0;

    [[nodiscard]] std::size_t packed_bytes() const noexcept;
    /// Changes with the source's files and with everything that the request says about the content.
    [[nodiscard]] std::uint64_t identity() const noexcept;
};

/// Checks the request and every tensor of the layers. Throws what load_experts throws, or `invalid_argument`.
PackPlan make_pack_plan(const PackRequest& request);

/// Share of rank `rank` of `size`: whole groups of `granule`, as even as they come.
Slice share_of(std::int64_t total, std::int64_t granule, int rank, int size) noexcept;

}  // namespace tokamak::formats
