// SPDX-License-Identifier: Apache-2.0
// Makes folders of conformance cases for tests.
#pragma once

#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "cli/run_tool.h"

namespace tokamak::test {

struct FileTensor {
    std::string dtype;  ///< as safetensors names it
    std::vector<std::int64_t> shape;
    std::string bytes;
};

FileTensor f32(std::vector<std::int64_t> shape, const std::vector<float>& values);
FileTensor i32(std::vector<std::int64_t> shape, const std::vector<std::int32_t>& values);
/// Values that bf16 holds exactly.
FileTensor bf16(std::vector<std::int64_t> shape, const std::vector<float>& values);
FileTensor u8(std::vector<std::int64_t> shape, const std::vector<std::uint8_t>& values);

/// A folder with a manifest and one file per case.
class CaseFolder {
  public:
    /// Adds a case and returns its manifest entry for changes; call `write` afterwards. Outputs get an exact tolerance.
    nlohmann::json& add(const std::string& name, const std::string& op, const nlohmann::json& params,
                        const std::map<std::string, FileTensor>& inputs,
                        const std::map<std::string, FileTensor>& outputs);
    void write() const;

    [[nodiscard]] const std::string& path() const noexcept { return folder_.path(); }
    [[nodiscard]] std::string file(const std::string& name) const { return folder_.file(name); }

  private:
    TemporaryFolder folder_;
    nlohmann::json cases_ = nlohmann::json::array();
};

}  // namespace tokamak::test
