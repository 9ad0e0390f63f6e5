// SPDX-License-Identifier: Apache-2.0
// Which variant won for which problem: the shipped tables and the user's tuned ones. Data only.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace tokamak {

/// Bucket -> variant name, ascending in tokens.
using TunedTable = std::vector<std::pair<std::int64_t, std::string>>;

/// A set of entries (device name, problem key) -> table. A value: built or loaded by one thread, then only read.
///
/// File format: {"tokamak_store": 1, "entries": [{"device": "NVIDIA H200", "problem": "fused_moe ...",
///               "table": {"1": "variant", "64": "variant"}}]}. Unknown keys are ignored.
class ConfigStore {
  public:
    /// Parses a store. An entry that is malformed is left out with one warning that names `origin` and the entry; text
    /// that is no store at all gives an empty store and one warning. Never throws on content.
    static ConfigStore parse(std::string_view text, const std::string& origin);
    /// As parse; a missing file is an empty store without a warning, one that cannot be read gives a warning.
    static ConfigStore load(const std::string& path);
    /// The table compiled into the library from configs/*.json.
    static const ConfigStore& shipped();
    /// The store that TOKAMAK_CONFIG_STORE names; read again when the file was replaced or changed. Thread-safe, also
    /// beside a process that saves the file.
    static std::shared_ptr<const ConfigStore> user();

    void set(const std::string& device, const std::string& problem, TunedTable table);
    /// Null if there is no entry.
    [[nodiscard]] const TunedTable* find(const std::string& device, const std::string& problem) const noexcept;
    [[nodiscard]] std::size_t size() const noexcept { return entries_.size(); }
    [[nodiscard]] std::string to_json() const;
    /// Replaces the file at once (write beside it, then rename); the last of several savers wins. Throws `io`.
    void save(const std::string& path) const;

  private:
    std::map<std::pair<std::string, std::string>, TunedTable> entries_;
};

}  // namespace tokamak
