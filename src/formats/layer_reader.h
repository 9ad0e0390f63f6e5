// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "tokamak/checkpoint.h"

namespace tokamak::formats {

/// Tensors of one layer of a checkpoint, by the part of the name after the layer's prefix. Failures are `parse` errors
/// that name file and tensor.
class LayerReader {
  public:
    static constexpr std::int64_t any = -1;

    /// The layer under "model.layers.N." or "layers.N."; nothing if neither has any experts.
    static std::optional<LayerReader> find(const SafetensorsFile& file, int layer);

    [[nodiscard]] bool contains(const std::string& name) const { return file_.contains(prefix_ + name); }
    /// A view that is one of `dtypes` and has that shape (`any` fits every size but 0).
    [[nodiscard]] Tensor tensor(const std::string& name, std::initializer_list<DType> dtypes,
                                const std::vector<std::int64_t>& shape) const;
    /// As above, or an absent tensor where the file has none.
    [[nodiscard]] Tensor optional_tensor(const std::string& name, std::initializer_list<DType> dtypes,
                                         const std::vector<std::int64_t>& shape) const;
    /// Type of a tensor that may be missing or of a type that Tensor does not know.
    [[nodiscard]] std::optional<DType> dtype_of(const std::string& name) const;

    /// Every E of the names "mlp.experts.E....", ascending.
    [[nodiscard]] std::vector<std::int64_t> expert_numbers() const;

    /// Throws a `parse` error about a tensor.
    [[noreturn]] void refuse(const std::string& name, const std::string& what) const;

  private:
    LayerReader(const SafetensorsFile& file, std::string prefix) : file_(file), prefix_(std::move(prefix)) {}
    [[nodiscard]] std::vector<std::string_view> expert_names() const;

    SafetensorsFile file_;
    std::string prefix_;
};

}  // namespace tokamak::formats
