// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "tokamak/tensor.h"
#include "tokamak/weight_format.h"

namespace tokamak {

/// A memory-mapped safetensors file. Nothing in the file is trusted: header length, JSON, names, dtypes, shapes and
/// offsets are checked on opening, and an `Error` (io or parse) names the file, the tensor and what is wrong. Views
/// stay valid as long as the object lives. Immutable after opening; safe to read from several threads.
class SafetensorsFile {
  public:
    /// Maps the file read-only. A file that another process truncates while it is mapped ends this process (SIGBUS).
    static SafetensorsFile open(const std::string& path);

    [[nodiscard]] const std::string& path() const noexcept;             ///< as given to `open`
    [[nodiscard]] std::span<const std::string> names() const noexcept;  ///< ascending
    [[nodiscard]] bool contains(const std::string& name) const noexcept;
    /// A view into the mapping on the CPU. The format does not align data, so the view may not be aligned to its
    /// elements: copy before reading them, or give it to a function that says it copies (`pack`). Throws
    /// `invalid_argument` for an unknown name, `parse` for a dtype that Tensor has no name for (bool, f8_e5m2, u16,
    /// ...).
    [[nodiscard]] Tensor tensor(const std::string& name) const;
    /// Free-text metadata of the header.
    [[nodiscard]] const std::map<std::string, std::string>& metadata() const noexcept;

  private:
    struct Impl;
    std::shared_ptr<const Impl> impl_;
};

/// A tensor to write.
struct NamedTensor {
    std::string name;
    Tensor tensor;  ///< contiguous, on the CPU
};

/// Writes safetensors. Tensors keep the order given; data is written through, so a file larger than memory can be made
/// by giving views of mapped memory. The file appears under its name only when complete (atomic rename). Its data
/// section starts at a multiple of 128 bytes; each tensor follows the one before it without a gap, as the format
/// demands, so give those with the largest elements first if views into the file shall be aligned. u4x2 is written as
/// U8. Throws `invalid_argument` for tensors that are absent, strided, on a GPU or of one name, `io` if the file cannot
/// be written.
void write_safetensors(const std::string& path, std::span<const NamedTensor> tensors,
                       const std::map<std::string, std::string>& metadata = {});

/// Layouts of published checkpoints that the adapter understands (docs/checkpoints.md lists names, dtypes, shapes). All
/// but the first have the tensors of each projection of each expert on their own.
enum class CheckpointLayout : std::uint8_t {
    gpt_oss,                   ///< stacked MXFP4: mlp.experts.gate_up_proj_blocks ..., interleaved rows, biases
    compressed_tensors,        ///< INT4 weight_packed / weight_scale / weight_shape (Kimi-K2)
    deepseek_fp8,              ///< FP8 weight / weight_scale_inv, blocks of 128x128
    bf16,                      ///< bf16 weight
    fp8,                       ///< FP8 weight / weight_scale: one scale, or blocks of 128x128
    deepseek_v4,               ///< MXFP4 or FP8 weight / scale
    modelopt_nvfp4,            ///< NVFP4 weight / weight_scale / weight_scale_2
    compressed_tensors_nvfp4,  ///< NVFP4 weight_packed / weight_scale / weight_global_scale, which divides
    awq,                       ///< INT4 qweight / qzeros / scales, words along the outputs
    gptq,                      ///< INT4 qweight / qzeros / scales / g_idx, words along the inputs
};
const char* to_string(CheckpointLayout layout) noexcept;

/// Experts of one layer, packed for the kernels, in host memory: all of them or those that were asked for. The router
/// is that of the whole layer either way.
struct PackedExperts {
    CheckpointLayout source = CheckpointLayout::bf16;
    WeightSpec spec;
    std::int64_t num_experts = 0;
    std::int64_t hidden = 0;
    std::int64_t intermediate = 0;
    PackedLayout gate_up_layout;
    PackedLayout down_layout;
    OwnedTensor gate_up;        ///< u8 [experts, gate_up_layout.matrix_bytes]
    OwnedTensor down;           ///< u8 [experts, down_layout.matrix_bytes]
    OwnedTensor gate_up_bias;   ///< bf16 [experts, 2 * intermediate], gate then up; absent if none
    OwnedTensor down_bias;      ///< bf16 [experts, hidden]; absent if none
    OwnedTensor router_weight;  ///< as stored, [experts, hidden]; absent if the file has none
    OwnedTensor router_bias;    ///< router bias or correction bias as stored [experts]; absent if none
};

/// Which layout layer `layer` of the file has, if any is recognised: by names and types of its tensors.
std::optional<CheckpointLayout> recognise_layer(const SafetensorsFile& file, int layer);

/// How a GPTQ checkpoint stores a zero point z; only its configuration tells ("checkpoint_format").
enum class GptqZeros : std::uint8_t {
    minus_one,  ///< as z - 1: "gptq", version 1
    plain,      ///< as z: "gptq_v2"
};

/// Reads and packs experts [first, first + count) of a layer (count -1: all), in parallel over experts.
/// Throws `invalid_argument` for a layer or experts that no file can have, `parse` naming the first tensor that is
/// missing, has another dtype or shape than the layout says, or holds weights that the packed format cannot hold
/// exactly (int4 with zero points that reach beyond -8 to 7).
PackedExperts load_experts(const SafetensorsFile& file, int layer, std::int64_t first = 0, std::int64_t count = -1,
                           GptqZeros zeros = GptqZeros::minus_one);

}  // namespace tokamak
