// SPDX-License-Identifier: Apache-2.0
// Which variant won for which problem: the shipped tables and the user's tuned ones. Data only.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace tokamak {

/// The winner of one bucket, and what its measurement was where that is known (us > 0).
struct TunedRow {
    std::int64_t tokens = 0;
    std::string variant;
    double us = 0;
    std::string runner_up{};  ///< empty: there was none
    double runner_up_us = 0;
    std::string build{};  ///< of the kernels that were measured, build_info::cuda_sources_hash(); empty: not known
    friend bool operator==(const TunedRow&, const TunedRow&) = default;
};

/// Ascending in tokens.
using TunedTable = std::vector<TunedRow>;

/// Why a candidate must not run again with the kernels of this build.
struct FailedVariant {
    std::string build;
    std::int64_t tokens = 0;
    std::string error;
    friend bool operator==(const FailedVariant&, const FailedVariant&) = default;
};

/// What is known about a problem on a device.
struct StoreEntry {
    TunedTable table;
    std::map<std::string, FailedVariant> failed;  ///< by variant
};

/// A set of entries (device name, problem key) -> table. A value: built or loaded by one thread, then only read.
///
/// File format: {"tokamak_store": 1, "entries": [{"device": "NVIDIA H200", "problem": "fused_moe ...",
///               "table": {"1": "variant", "64": "variant"},
///               "measured": {"64": {"us": 12.5, "runner_up": "variant", "runner_up_us": 12.9, "build": "1234abcd"}},
///               "failed": {"variant": {"build": "1234abcd", "tokens": 64, "error": "text"}}}]}.
/// "measured" and "failed" may be absent, the table may be empty if something failed. Unknown keys are ignored.
class ConfigStore {
  public:
    /// Parses a store. An entry that is malformed is left out with one warning that names `origin` and the entry; text
    /// that is no store at all gives an empty store and one warning. Never throws on content.
    static ConfigStore parse(std::string_view text, const std::string& origin);
    /// As parse, but nothing, without a warning, for text that is no store at all.
    static std::optional<ConfigStore> parse_strictly(std::string_view text, const std::string& origin);
    /// As parse; a missing file is an empty store without a warning, one that cannot be read gives a warning.
    static ConfigStore load(const std::string& path);
    /// The table compiled into the library from configs/*.json.
    static const ConfigStore& shipped();
    /// The store that TOKAMAK_CONFIG_STORE names; read again when the file was replaced or changed. Thread-safe, also
    /// beside a process that saves the file.
    /// Entries that were installed in this process join it and win over the file's.
    static std::shared_ptr<const ConfigStore> user();
    /// Adds entries to what `user` gives. Thread-safe.
    static void install(const ConfigStore& entries);

    void set(const std::string& device, const std::string& problem, TunedTable table);
    void set_failed(const std::string& device, const std::string& problem, const std::string& variant,
                    FailedVariant failure);
    /// Takes over the rows and failures of `newer`, bucket by bucket and variant by variant; the rest stays, but for
    /// rows of other kernels between two buckets, with newer rows on both sides. A variant with a row in `newer` has
    /// not failed any more, and one that failed there loses its rows.
    void merge(const ConfigStore& newer);
    /// Null if there is no entry.
    [[nodiscard]] const TunedTable* find(const std::string& device, const std::string& problem) const noexcept;
    [[nodiscard]] const StoreEntry* entry(const std::string& device, const std::string& problem) const noexcept;
    [[nodiscard]] std::size_t size() const noexcept { return entries_.size(); }
    /// By device, then problem.
    [[nodiscard]] const std::map<std::pair<std::string, std::string>, StoreEntry>& entries() const noexcept {
        return entries_;
    }
    [[nodiscard]] std::string to_json() const;
    /// Replaces the file at once (write beside it, then rename); the last of several savers wins. Throws `io`.
    void save(const std::string& path) const;
    /// Merges this store into the file; savers in other threads and processes wait for one another (a lock on
    /// PATH.lock, which stays). Throws `io` if the file cannot be written or holds something else than a store.
    void save_merged(const std::string& path) const;

  private:
    std::map<std::pair<std::string, std::string>, StoreEntry> entries_;
};

}  // namespace tokamak
