// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "formats/tensor_source.h"

namespace tokamak::formats {

/// How a family of checkpoints calls its experts, below the layer's prefix.
struct ExpertNames {
    const char* experts;
    std::array<const char*, 3> projections;  ///< gate, up, down
    const char* router_weight;
    const char* router_bias;
};

/// A part of a stored tensor: the whole or one entry of its first dimension. Nothing of it has been read.
struct StoredTensor {
    std::string name;        ///< below the layer's prefix
    std::size_t offset = 0;  ///< of the part in the tensor, in bytes
    Tensor shape;            ///< type and shape of the part; its data means nothing. Absent: there is none

    explicit operator bool() const noexcept { return shape.present; }
    [[nodiscard]] StoredTensor at(std::int64_t index) const;
    [[nodiscard]] StoredTensor reshape(std::initializer_list<std::int64_t> sizes) const;
};

/// Tensors of one layer of a checkpoint, by the part of the name after the layer's prefix. Failures are `parse` errors
/// that name file and tensor.
class LayerReader {
  public:
    static constexpr std::int64_t any = -1;

    /// The layer under one of the known prefixes ("model.layers.N.", "layers.N.", ...); nothing if none has experts.
    static std::optional<LayerReader> find(std::shared_ptr<const TensorSource> source, int layer);
    /// Every layer number that occurs under a known prefix with experts, ascending.
    static std::vector<int> layers_with_experts(const TensorSource& source);

    [[nodiscard]] const std::string& path() const noexcept { return source_->path(); }
    [[nodiscard]] const std::string& prefix() const noexcept { return prefix_; }
    [[nodiscard]] const ExpertNames& expert_names() const noexcept { return *names_; }
    [[nodiscard]] bool contains(const std::string& name) const { return source_->contains(prefix_ + name); }
    /// A tensor that is one of `dtypes` and has that shape (`any` fits every size but 0).
    [[nodiscard]] StoredTensor tensor(const std::string& name, std::initializer_list<DType> dtypes,
                                      const std::vector<std::int64_t>& shape) const;
    /// As above, but an absent one where there is none.
    [[nodiscard]] StoredTensor optional_tensor(const std::string& name, std::initializer_list<DType> dtypes,
                                               const std::vector<std::int64_t>& shape) const;
    /// A number of the type: shape [] or [1].
    [[nodiscard]] StoredTensor number(const std::string& name, std::initializer_list<DType> dtypes) const;
    /// Type and shape of a tensor that may be missing or of a type that Tensor does not know.
    [[nodiscard]] std::optional<Tensor> description(const std::string& name) const;
    [[nodiscard]] Window window(const StoredTensor& stored) const;

    /// Every E of the names "<experts>E....", ascending.
    [[nodiscard]] std::vector<std::int64_t> expert_numbers() const;
    /// Every E and rest of such names.
    struct ExpertField {
        std::int64_t expert;
        std::string_view rest;  ///< "gate_proj.weight"
    };
    [[nodiscard]] std::vector<ExpertField> expert_fields() const;

    /// Throws a `parse` error about a tensor.
    [[noreturn]] void refuse(const std::string& name, const std::string& what) const;

  private:
    LayerReader(std::shared_ptr<const TensorSource> source, std::string prefix, const ExpertNames& names)
        : source_(std::move(source)), prefix_(std::move(prefix)), names_(&names) {}

    std::shared_ptr<const TensorSource> source_;
    std::string prefix_;
    const ExpertNames* names_;
};

}  // namespace tokamak::formats
