// SPDX-License-Identifier: Apache-2.0
// A checkpoint in one or many safetensors files, of which only windows are ever mapped.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>

#include "formats/tensor_source.h"

namespace tokamak::formats {

/// The weight_map of a model.safetensors.index.json: tensor name -> file beside the index. Throws `parse` naming `path`
/// for anything else, also for a file name that is more than a name.
std::map<std::string, std::string> parse_checkpoint_index(std::string_view text, const std::string& path);

/// Opens a safetensors file, an index, or a folder with model.safetensors.index.json, model.safetensors or any
/// *.safetensors files. Headers are read and checked, data is not. Throws `io` or `parse`.
class CheckpointFiles : public TensorSource {
  public:
    static std::shared_ptr<const CheckpointFiles> open(const std::string& path);

    /// Folder that holds the files and the checkpoint's configuration.
    [[nodiscard]] virtual const std::string& folder() const noexcept = 0;
    /// Changes with names, sizes and times of the files.
    [[nodiscard]] virtual std::uint64_t identity() const noexcept = 0;
};

}  // namespace tokamak::formats
