// SPDX-License-Identifier: Apache-2.0
#include "formats/tensor_source.h"

#include <utility>

namespace tokamak::formats {
namespace {

class MappedSource final : public TensorSource {
  public:
    explicit MappedSource(SafetensorsFile file) : file_(std::move(file)) {}

    [[nodiscard]] const std::string& path() const noexcept override { return file_.path(); }
    [[nodiscard]] std::span<const std::string> names() const noexcept override { return file_.names(); }
    [[nodiscard]] bool contains(const std::string& name) const noexcept override { return file_.contains(name); }
    [[nodiscard]] Tensor describe(const std::string& name) const override { return file_.tensor(name); }
    [[nodiscard]] Window window(const std::string& name, std::size_t offset, std::size_t) const override {
        return {file_.tensor(name).as<std::byte>() + offset, std::make_shared<SafetensorsFile>(file_)};
    }

  private:
    SafetensorsFile file_;
};

}  // namespace

std::shared_ptr<const TensorSource> source_of(const SafetensorsFile& file) {
    return std::make_shared<MappedSource>(file);
}

}  // namespace tokamak::formats
