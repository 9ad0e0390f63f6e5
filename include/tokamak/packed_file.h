// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "tokamak/checkpoint.h"

namespace tokamak {

/// Experts of one layer in a packed file: sizes of the slice that the file holds, and views into it.
struct PackedLayer {
    int layer = 0;
    CheckpointLayout source = CheckpointLayout::bf16;  ///< of the checkpoint it was made from
    WeightSpec spec;
    std::int64_t hidden = 0;
    std::int64_t intermediate = 0;        ///< of this slice
    std::int64_t first_intermediate = 0;  ///< where the slice begins in the checkpoint's
    std::int64_t total_intermediate = 0;
    std::int64_t num_experts = 0;  ///< of this slice
    std::int64_t first_expert = 0;
    std::int64_t total_experts = 0;
    PackedLayout gate_up_layout;
    PackedLayout down_layout;
    Tensor gate_up;        ///< u8 [num_experts, gate_up_layout.matrix_bytes]; aligned to 128 bytes in the mapping
    Tensor down;           ///< u8 [num_experts, down_layout.matrix_bytes]; aligned likewise
    Tensor gate_up_bias;   ///< bf16 [num_experts, 2 * intermediate], gate then up; absent if none
    Tensor down_bias;      ///< bf16 [num_experts, hidden]; zeros but in the first tensor-parallel slice; absent if none
    Tensor router_weight;  ///< of all experts, as stored; absent if none
    Tensor router_bias;    ///< of all experts, as stored; absent if none
};

/// A file made by `pack_checkpoint`, memory-mapped (docs/packed_file.md). Nothing in it is trusted. Views stay valid as
/// long as the object lives; copy them to a device, or compute on the CPU straight from the mapping. Immutable; safe to
/// read from several threads.
class PackedFile {
  public:
    /// Throws `io` or `parse` naming the file and what is wrong, `unsupported` for a layout version of another library.
    static PackedFile open(const std::string& path);

    [[nodiscard]] const std::string& path() const noexcept;
    /// Ascending by layer number.
    [[nodiscard]] std::span<const PackedLayer> layers() const noexcept;
    /// Throws `invalid_argument` for a layer that the file does not have.
    [[nodiscard]] const PackedLayer& layer(int number) const;

  private:
    struct Impl;
    std::shared_ptr<const Impl> impl_;
};

/// What to pack, and into which file.
struct PackRequest {
    std::string source;       ///< a safetensors file, a *.index.json, or a folder with one of them
    std::string output;       ///< takes its name only when complete
    std::vector<int> layers;  ///< empty: all that have experts
    int tensor_rank = 0;      ///< slice of the intermediate size, in whole groups of scales: slices may differ by one
    int tensor_size = 1;
    int expert_rank = 0;  ///< slice of the experts, neighbouring ones
    int expert_size = 1;
    std::optional<GptqZeros> gptq_zeros;  ///< absent: as the checkpoint's configuration says, version 1 without one
    bool verify = false;                  ///< read every expert back, unpack it and compare it with the source
    bool overwrite = false;               ///< replace an existing output; otherwise that is an error
    int threads = 0;                      ///< 0: all
};

/// How far a call is. `bytes` counts packed bytes, written or verified.
struct PackProgress {
    const char* phase = "";  ///< "checking" what an interrupted call left, "packing" or "verifying"
    int layer = 0;
    std::size_t bytes = 0;
    std::size_t total_bytes = 0;
};
using PackObserver = std::function<void(const PackProgress&)>;

struct PackReport {
    std::vector<int> layers;       ///< of the file
    std::vector<int> kept_layers;  ///< of those, taken over from an interrupted call
    std::size_t bytes = 0;         ///< of the file
    bool verified = false;
};

/// Packs a checkpoint's experts. Memory stays bounded by a few experts per thread, whatever the size of the files. An
/// interrupted call leaves `output`.partial and a journal beside it; the same request on the same source then keeps the
/// layers that the journal lists and whose bytes still have their checksums. The observer is called from any thread,
/// one call at a time. Throws `io`, or what load_experts throws.
PackReport pack_checkpoint(const PackRequest& request, const PackObserver& observer = {});

/// Compares an existing output with its source, as `verify` does. Throws `parse` naming the first difference.
PackReport verify_packed_file(const PackRequest& request, const PackObserver& observer = {});

}  // namespace tokamak
