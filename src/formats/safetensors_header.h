// SPDX-License-Identifier: Apache-2.0
// The header of a safetensors file: parsed and checked, nothing of it trusted.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "tokamak/checkpoint.h"

namespace tokamak::formats {

/// Bytes of the length that precedes the header.
inline constexpr std::size_t kHeaderPrefix = 8;
/// The limit of the format's own implementation.
inline constexpr std::uint64_t kMaxHeaderBytes = 100'000'000;
inline constexpr const char* kMetadataKey = "__metadata__";

struct TensorEntry {
    std::string name;
    std::string dtype;  ///< as in the file
    std::vector<std::int64_t> shape;
    std::uint64_t begin = 0;  ///< in the data section
    std::uint64_t end = 0;
};

struct SafetensorsHeader {
    std::vector<TensorEntry> tensors;  ///< ascending by name
    std::map<std::string, std::string> metadata;
};

/// Parses the JSON and checks it against the size of the data section: offsets in range, tensors neither overlapping
/// nor leaving gaps, sizes that match shape and dtype. Throws `parse` naming `file`, the tensor and what is wrong.
SafetensorsHeader parse_safetensors_header(const std::string& file, std::string_view json, std::uint64_t data_bytes);

/// The tensor of an entry with its data at `data` (null: a description only). Throws `parse` for a dtype or a rank that
/// Tensor cannot hold.
Tensor describe_entry(const std::string& file, const TensorEntry& entry, const std::byte* data);

/// Length prefix and JSON of a file with these tensors one after the other (their data does not matter), padded so that
/// the data begins at a multiple of `alignment`. Throws `invalid_argument` naming `op`.
std::string make_safetensors_header(std::span<const NamedTensor> tensors,
                                    const std::map<std::string, std::string>& metadata, std::size_t alignment,
                                    const char* op);

/// Type for a dtype name of the format; nothing for those that Tensor cannot hold.
std::optional<DType> tensor_dtype(std::string_view name) noexcept;
/// Name to write for a type. A packed 4-bit pair is a U8, as in published checkpoints.
const char* safetensors_dtype(DType dtype) noexcept;

/// A name from a file, safe to print: control bytes replaced, length limited, in double quotes.
std::string display_name(std::string_view name);

}  // namespace tokamak::formats
