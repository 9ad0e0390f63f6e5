// SPDX-License-Identifier: Apache-2.0
// Tensors of a checkpoint by name, wherever their bytes are.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>

#include "tokamak/checkpoint.h"

namespace tokamak::formats {

/// Bytes of a tensor in memory, as long as `keeper` lives.
struct Window {
    const std::byte* data = nullptr;
    std::shared_ptr<const void> keeper;
};

/// A checkpoint in one file or in many. Immutable; safe to read from several threads.
class TensorSource {
  public:
    virtual ~TensorSource() = default;

    /// What messages call the checkpoint.
    [[nodiscard]] virtual const std::string& path() const noexcept = 0;
    [[nodiscard]] virtual std::span<const std::string> names() const noexcept = 0;  ///< ascending
    [[nodiscard]] virtual bool contains(const std::string& name) const noexcept = 0;
    /// Type and shape; the data may be null: read through `window`. Throws as SafetensorsFile::tensor.
    [[nodiscard]] virtual Tensor describe(const std::string& name) const = 0;
    /// Bytes [offset, offset + bytes) of a tensor, which lie within it. They may be unaligned.
    [[nodiscard]] virtual Window window(const std::string& name, std::size_t offset, std::size_t bytes) const = 0;
};

/// A mapped file as a source: its windows cost nothing.
std::shared_ptr<const TensorSource> source_of(const SafetensorsFile& file);

}  // namespace tokamak::formats
